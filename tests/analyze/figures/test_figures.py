"""What --plots writes: the overview's numbers, legible, for hostile names too, and nothing of anybody else's."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from analyze import outliers, overview
from analyze.cli import main
from analyze.figures.drawing import DrawnView, draw_views
from analyze.figures.folder import MANIFEST, replace_files
from analyze.figures.library import COLUMN, PAGE, house_style
from analyze.figures.marks import mark
from analyze.figures.plotting import INDEX, figure_files
from analyze.figures.views import load_views
from analyze.figures.views.hits_by_position import nearest_magnitude
from analyze.overviews.results import Curves, Emergence, Overview, PositionProfile, QuantisationView, Saturation
from schemas.errors import InputError
from tests.stores import write_store

HOSTILE = "<script>$x_1^2$ & \\alpha\n\u202e\u05de\u05d5\u05d3\u05dc %"


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two families, one name hostile; the second store holds peaks alone."""
    folder = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(7)
    found = []
    for place, name in enumerate((HOSTILE, "plain")):
        values = {s: (random.standard_t(3, (4, 3, 12, 10)) * 2).astype(np.float32) for s in ("ln_attn", "ln_mlp")}
        values["ln_attn"][..., 3] += 9
        facts = {"name": name, "total_parameters": 10 ** (8 + place), "active_parameters": 10**8}
        write_store(folder / f"{place}.zarr", values, model=facts, slices=place == 0)
        found.append(folder / f"{place}.zarr")
    return found


@pytest.fixture(scope="session")
def seen(stores: list[Path]) -> Overview:
    return overview(stores, "4:12:1")


@pytest.fixture(scope="session")
def drawn(seen: Overview) -> dict[str, DrawnView]:
    return {view.name: view for view in draw_views(seen)}


@pytest.fixture(scope="session")
def files(seen: Overview) -> dict[str, bytes]:
    return figure_files(seen)


def lines(view: DrawnView, panel: int) -> list[list[float]]:
    """The y values of each line in a panel."""
    assert view.figure is not None
    return [np.asarray(line.get_ydata(), float).tolist() for line in view.figure.axes[panel].get_lines()]


def values(rows: Any) -> Any:
    return np.array(rows, float).tolist()


def test_figures_draw_the_numbers_of_the_overview(
    seen: Overview, drawn: dict[str, DrawnView], stores: list[Path]
) -> None:
    first, chosen = seen.stores[0], seen.asked.chosen
    sweep = lines(drawn["outliers-by-magnitude"], 0)
    assert sweep[1::2] == [[point.outliers for point in store.sweep] for store in seen.stores]
    assert sweep[2::2] == [[int(outliers(path, magnitude=6).outliers)] for path in stores]
    phase = drawn["phase-map"].figure
    assert phase is not None
    for axes, store in zip(phase.axes, seen.stores, strict=False):
        assert axes.collections[0].get_array().tolist() == values(store.phase.outliers)
    part = drawn["phase-map"].caption
    assert f"magnitude {seen.asked.magnitudes[chosen]} and a layer share of 25%" in part
    peaks = next(view for name, view in drawn.items() if name.startswith("feature-peaks-") and "plain" not in name)
    assert peaks.figure is not None
    for site, axes in enumerate(peaks.figure.axes[:2]):
        shown = [feature.layer_peak[site] for feature in first.features]
        assert axes.images[0].get_array().tolist() == values(shown)
    curves, profile = first.curves, first.positions
    assert isinstance(curves, Curves)
    assert isinstance(profile, PositionProfile)
    one = next(view for name, view in drawn.items() if name.startswith("layer-magnitudes-") and "plain" not in name)
    for tensor in range(len(curves.tensors)):
        assert lines(one, tensor) == values([rows[tensor] for rows in (*curves.top, curves.median)])
    shape = next(view for name, view in drawn.items() if name.startswith("layer-shape-") and "plain" not in name)
    assert [lines(shape, 0), lines(shape, 1)] == [values(curves.kurtosis), values(curves.max_median)]
    hits = np.array(profile.hits)[:, chosen] / np.array(profile.tokens)
    assert lines(drawn["hits-by-position"], 0) == hits.tolist()
    growth = [store.saturation for store in seen.stores]
    assert lines(drawn["saturation"], 0) == [
        list(g.unique_features[chosen]) for g in growth if isinstance(g, Saturation)
    ]
    assert isinstance(first.quantisation, QuantisationView)
    errors = next(view for name, view in drawn.items() if name.startswith("quantisation-") and "plain" not in name)
    assert errors.figure is not None
    middle = [np.asarray(line.get_xdata()).tolist() for line in errors.figure.axes[0].get_lines()]
    assert middle == np.median(np.array(first.quantisation.sqnr_db, float), axis=2).T.tolist()
    assert isinstance(seen.emergence, Emergence)
    place = seen.emergence.names.index("outliers")
    counts = [row[place] for row in seen.emergence.rows]
    assert lines(drawn["emergence"], 0)[: len(counts)] == [[count] for count in counts]


def test_every_view_is_there_or_says_why(seen: Overview, drawn: dict[str, DrawnView], files: dict[str, bytes]) -> None:
    for name, view in load_views().items():
        assert sum(found.startswith(name) for found in drawn) == (len(seen.stores) if view.each_store else 1), name
    index = files[INDEX].decode()
    absent = [view for view in drawn.values() if view.figure is None]
    assert {view.name for view in absent} == {
        f"{name}-plain" for name in ("layer-magnitudes", "layer-shape", "quantisation-errors")
    }
    assert all("holds peaks only" in view.caption for view in absent)
    assert index.count("Not drawn. ") == 3
    for view in drawn.values():
        expected = {f"{view.name}.{kind}" for kind in ("svg", "png", "txt", "tex")} if view.figure else set()
        assert {name for name in files if name.rsplit(".", 1)[0] == view.name} == expected
    assert "definition moe-table: a feature counts in each sequence" in drawn["phase-map"].caption.lower()
    assert "text made up, 12 tokens a sequence" in drawn["phase-map"].caption


def test_svg_holds_names_as_text(seen: Overview, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if name.endswith(".svg"):
            root = ElementTree.fromstring(content)
            assert not [e for e in root.iter() if e.tag.endswith("script")]
            width = float(root.attrib["width"].removesuffix("pt")) / 72
            assert width == pytest.approx(COLUMN) or width == pytest.approx(PAGE), name
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG")
    texts = "\n".join(ElementTree.fromstring(files["outliers-by-magnitude.svg"]).itertext())
    assert (
        "<script>$x_1^2$ & \\alpha<U+000A><U+202E>\u05de" in texts.replace("\u2026", "") or "<script>$x_1^2$" in texts
    )
    assert "\u202e" not in "".join(
        content.decode() for name, content in files.items() if name.endswith((".txt", ".svg"))
    )
    tex = next(content.decode() for name, content in files.items() if name == "saturation.tex")
    assert r"$<$script$>$\$x\_1\textasciicircum{}2\$ \& \textbackslash{}alpha" in tex


def test_latex_is_balanced_and_every_row_has_its_columns(files: dict[str, bytes]) -> None:
    found = {name: content.decode() for name, content in files.items() if name.endswith(".tex")}
    assert r"\begin{table*}" in found["features.tex"]  # ten columns are more than one of a paper's two holds
    for name, tex in found.items():
        tex = re.sub(r"^%.*$", "", tex, flags=re.MULTILINE)
        begun, ended = (re.findall(rf"\\{word}\{{([a-z*]+)\}}", tex) for word in ("begin", "end"))
        assert begun == ended[::-1], name
        bare = re.sub(r"\\[\\{}&%$#_]", "", tex)
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        if "tabular" not in begun:
            continue
        spec = re.search(r"\\begin\{tabular\}\{((?:[lr]|p\{[^}]*\})+)\}", tex)
        assert spec is not None
        columns = len(re.findall(r"[lr]|p\{", spec[1]))
        rows = [line for line in tex.splitlines() if line.endswith(r" \\")]
        assert len(rows) > 1
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {columns}


def test_nothing_is_cut_and_ticks_do_not_overlap(drawn: dict[str, DrawnView]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with house_style():
        for view in drawn.values():
            if view.figure is None:
                continue
            FigureCanvasAgg(view.figure)
            view.figure.draw_without_rendering()
            page = view.figure.bbox
            for axes in view.figure.axes:
                for axis in (axes.xaxis, axes.yaxis):
                    low, high = sorted(axis.get_view_interval())
                    ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
                    labels = [
                        t for tick in ticks for t in (tick.label1, tick.label2) if t.get_visible() and t.get_text()
                    ]
                    boxes = [label.get_window_extent() for label in labels]
                    for box in boxes:
                        assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1, view.name
                        assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1, view.name
                    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)), view.name
                for text in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label):
                    if text.get_text():
                        box = text.get_window_extent()
                        assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1, (view.name, text)
            for legend in view.figure.legends:
                box = legend.get_window_extent()
                assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1, view.name


def test_marks_differ_in_every_way() -> None:
    for start in range(20):
        five = [mark(place) for place in range(start, start + 5)]
        for part in ("colour", "dashes", "marker"):
            assert len({str(getattr(one, part)) for one in five}) == 5
    assert len({str(mark(place)) for place in range(100)}) == 100


@pytest.mark.slow
def test_the_same_overview_gives_the_same_bytes(noisy_store: Path) -> None:
    few = overview(noisy_store, 6, engine="peaks")
    assert figure_files(few) == figure_files(few)


def test_tables_hold_the_numbers(seen: Overview, files: dict[str, bytes]) -> None:
    rows = list(csv.DictReader(io.StringIO(files["counts.csv"].decode())))
    assert [int(row["outliers"]) for row in rows] == [p.outliers for store in seen.stores for p in store.sweep]
    for name in ("total_parameters", "active_parameters"):
        assert {int(row[name]) for row in rows} == {store.facts.model[name] for store in seen.stores}
    features = list(csv.DictReader(io.StringIO(files["features.csv"].decode())))
    looked_at = [(store, feature) for store in seen.stores for feature in store.features]
    for row, (store, feature) in zip(features, looked_at, strict=True):
        assert (int(row["feature"]), float(row["peak"])) == (feature.feature, feature.peak)
        site, layer = store.facts.sites.index(row["peak_site"]), store.facts.layers.index(int(row["peak_layer"]))
        assert feature.layer_peak[site][layer] == feature.peak
    view = seen.stores[0].quantisation
    assert isinstance(view, QuantisationView)
    errors = list(csv.DictReader(io.StringIO(files["quantisation.csv"].decode())))
    assert [float(row["sqnr_db"]) for row in errors] == np.array(view.sqnr_db).ravel().tolist()


def test_one_magnitude_has_no_sweep(noisy_store: Path) -> None:
    found = {view.name: view for view in draw_views(overview(noisy_store, 6, engine="peaks"))}
    assert found["outliers-by-magnitude"].figure is None
    assert "--magnitude 2:12:0.25" in found["outliers-by-magnitude"].caption
    assert found["emergence"].figure is None


def test_files_are_replaced_only_if_they_are_ours(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "figures"
    replace_files(folder, {"a.svg": b"1", "b.svg": b"2"})
    (folder / "mine.txt").write_bytes(b"mine")
    replace_files(folder, {"a.svg": b"3"})
    assert sorted(p.name for p in folder.iterdir()) == ["a.svg", MANIFEST, "mine.txt"]
    for name, said in (("mine.txt", "was not written by --plots"), ("a.svg", "was changed since")):
        (folder / "a.svg").write_bytes(b"edited" if name == "a.svg" else b"3")
        with pytest.raises(InputError, match=said):
            replace_files(folder, {name: b"4", "new.svg": b"5"})
        assert sorted(p.name for p in folder.iterdir()) == ["a.svg", MANIFEST, "mine.txt"]
    (folder / MANIFEST).write_text(json.dumps([]))
    with pytest.raises(InputError, match="is not a manifest"):
        replace_files(folder, {"a.svg": b"6"})


def test_an_interruption_is_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_files(tmp_path, {"a": b"1", "b": b"1"})
    rename, calls = __import__("os").replace, iter(range(9))

    def stopped(source: Any, target: Any) -> None:
        if next(calls) == 2:  # after the manifest and the first file
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            replace_files(tmp_path, {"a": b"2", "b": b"2"})
    assert not list(tmp_path.glob(".figures-*"))
    replace_files(tmp_path, {"a": b"2", "b": b"2"})
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"2", b"2"]


def test_the_command_writes_them_or_says_what_to_do(
    noisy_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["--store", str(noisy_store), "--engine", "peaks", "--plots"]
    assert main([*ask, str(tmp_path / "figures")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("tiny at magnitude 6")
    assert f"{tmp_path / 'figures'}: 2 figures as SVG and PNG" in said.err
    assert (tmp_path / "figures" / INDEX).exists()
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path / "file", "is a file: name a folder"), (tmp_path / "file" / "in", "not a folder")):
        assert main([*ask, str(path)]) == 2
        said = capsys.readouterr()
        assert words in said.err
        assert not said.out
    assert main(["--store", str(noisy_store), "--by", "layer", "--plots", "x"]) == 2
    assert main(["--store", str(noisy_store), "--null", "--plots", "x"]) == 2


def test_without_matplotlib_the_extra_is_named(
    noisy_store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--store", str(noisy_store), "--plots", "figures"]) == 2
    assert "pip install 'outlier-features[plots]'" in capsys.readouterr().err


def test_the_nearest_magnitude() -> None:
    assert nearest_magnitude(["2", "6.25", "7"], "6.5") == 1
