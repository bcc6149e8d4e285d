"""A chunk that cannot be read is named, or left out and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from analyze.evaluation.criterion_tables import asked_tables
from analyze.resources import Resources
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.moments import Moments
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from analyze.thresholds.answers import answer
from analyze.thresholds.question import ask
from schemas.errors import CorruptChunkError
from schemas.run import Run
from tests.analyze.conftest import Command
from tests.stores import write_store

VALUES = np.random.default_rng(4).normal(0, 5, (3, 2, 8, 6)).astype(np.float32)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The second half of layer 1, sequence 0, of ln_mlp cannot be read."""
    path = tmp_path / "run.zarr"
    write_store(path, {"ln_attn": VALUES, "ln_mlp": VALUES + 1}, position_chunk=4)
    file = path / "ln_mlp/c.1.0.1.0"
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(bytes(data))
    return path


def test_it_is_named_with_layer_and_sequence(damaged: Path) -> None:
    with pytest.raises(CorruptChunkError, match=r"chunk ln_mlp/c\.1\.0\.1\.0 \(layer 1, sequence 0, position 4 to 7\)"):
        measure(Run(damaged), [Moments()])


def test_chunks_reduced_as_they_are_decoded_are_those_that_are_decoded_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analyze.statistics import cells, work

    values = np.random.default_rng(6).normal(0, 3, (2, 2, 40, 120)).astype(np.float32)
    values[1][np.abs(values[1]) < 2] = 0  # as --keep floor=2 leaves them
    values[:, :, ::9, 5], values[:, :, ::7, 8] = np.nan, -np.inf
    path = tmp_path / "run.zarr"
    write_store(path, {"ln_attn": values, "ln_mlp": values * 2}, position_chunk=16)  # the last of 8 positions
    statistics = [Exceedances(("2", "3.5", "8")), PositionPeaks(), LayerPeaks()]
    packed: list[bool] = []
    given = cells.CellReader.packed

    def seen(*of: Any) -> Any:
        packed.append((piece := given(*of)) is not None)
        return piece

    monkeypatch.setattr(cells.CellReader, "packed", seen)
    found = measure(Run(path), statistics, cache=False)
    assert sorted(set(packed)) == [False, True]
    with monkeypatch.context() as patched:
        patched.setattr(work, "_decodes_blocks", lambda: False)
        told = measure(Run(path), statistics, cache=False)
    assert all(found[name].identical(told[name]) for name in found)
    file = path / "ln_mlp/c.1.0.1.0"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(
        CorruptChunkError, match=r"chunk ln_mlp/c\.1\.0\.1\.0 \(layer 1, sequence 0, position 16 to 31\)"
    ):
        measure(Run(path), statistics, cache=False)
    left = measure(Run(path), statistics, cache=False, skip_corrupt=True)
    assert left["exceedances"].attrs["excluded"] == ["ln_mlp, layer 1, sequence 0"]


def test_it_is_left_out_as_a_whole_and_told(damaged: Path, tmp_path: Path) -> None:
    kept = {"ln_attn": VALUES, "ln_mlp": VALUES + 1}
    kept["ln_mlp"] = kept["ln_mlp"].copy()
    kept["ln_mlp"][1, 0] = np.nan
    write_store(tmp_path / "nan.zarr", kept, position_chunk=4)
    statistics = [Moments(), Exceedances(("2",)), PositionPeaks(), LayerPeaks()]
    found = measure(Run(damaged), statistics, skip_corrupt=True)
    told = measure(Run(tmp_path / "nan.zarr"), statistics)
    for name in found:
        assert found[name].attrs.pop("excluded") == ["ln_mlp, layer 1, sequence 0"]
    np.testing.assert_array_equal(found["exceedances"].hits, told["exceedances"].hits)
    np.testing.assert_array_equal(found["exceedances"].rows.sel(site="ln_mlp"), [16, 8, 16])
    np.testing.assert_array_equal(found["position_peaks"].position_peak, told["position_peaks"].position_peak)
    np.testing.assert_array_equal(found["layer_peaks"].layer_peak, told["layer_peaks"].layer_peak)
    np.testing.assert_array_equal(found["moments"]["mean"], told["moments"]["mean"])


@pytest.mark.parametrize("coverage", ["union", "mean"])
def test_a_block_is_left_out_where_one_of_its_sites_is_damaged(damaged: Path, tmp_path: Path, coverage: str) -> None:
    kept = {"ln_attn": VALUES.copy(), "ln_mlp": VALUES + 1}
    for site in kept.values():
        site[1, 0] = 0
    write_store(tmp_path / "without.zarr", kept, position_chunk=4)
    knobs = {"layer_unit": "block", "minimum_hits": 2, "position_coverage": coverage}
    (found,) = answer(damaged, ask("3", **knobs), resources=Resources(skip_corrupt=True))  # type: ignore[arg-type]
    (told,) = answer(tmp_path / "without.zarr", ask("3", **knobs))  # type: ignore[arg-type]
    assert found.excluded == ("ln_attn of layer 1, sequence 0", "ln_mlp of layer 1, sequence 0")
    assert list(found.features()) == list(told.features()) != []
    with pytest.raises(CorruptChunkError, match=r"ln_mlp/c\.1\.0\.1\.0"):
        answer(damaged, ask("3", **knobs))  # type: ignore[arg-type]


def test_the_command_says_what_it_skipped(analyze: Command, damaged: Path) -> None:
    asked = ("--store", damaged, "--engine", "slices", "--magnitude", "2")
    assert analyze(*asked)[0] == 2
    status, out, _ = analyze(*asked, "--skip-corrupt", "--details")
    assert status == 0
    assert "1 cell could not be read and was skipped, as if without hits: ln_mlp of layer 1, sequence 0." in " ".join(
        out.split()
    )
    _, out, _ = analyze(*asked, "--skip-corrupt", "--format", "json")
    assert json.loads(out)["results"][0]["excluded_cells"] == ["ln_mlp of layer 1, sequence 0"]


def test_by_position_is_per_token_and_layer_that_was_read(damaged: Path) -> None:
    """One cell of ln_mlp is left out, then all of its layer 0 too, whose tokens stood for every layer's."""
    kept = {
        site: (VALUES + i).astype(ml_dtypes.bfloat16).astype(np.float32) for i, site in enumerate(("ln_attn", "ln_mlp"))
    }
    kept["ln_mlp"][1, 0] = 0
    for lost, read in ((3, {"ln_attn": 6, "ln_mlp": 5}), (0, {"ln_attn": 6, "ln_mlp": 3})):
        for file in (damaged / "ln_mlp").glob(f"c.{lost}.*"):
            file.unlink()
            kept["ln_mlp"][lost] = 0
        (table,) = asked_tables([damaged], by="position", magnitude="2", skip_corrupt=True)
        rows = {(row["site"], row["position"]): row["hits_per_token"] for row in table.records()}
        for site, values in kept.items():
            hits = (np.abs(values) >= 2).sum(axis=(0, 1, 3)).tolist()
            assert [rows[site, p] for p in range(8)] == [n / read[site] for n in hits]
        assert "Per token and layer: of the cells that were read." in table.notes[0]


def test_every_answer_that_left_something_out_says_so(analyze: Command, damaged: Path) -> None:
    asked = ("--store", damaged, "--magnitude", "2", "--skip-corrupt", "--details")
    for flags in ((), ("--published",), ("--emergence",)):
        status, out, _ = analyze(*asked, *flags)  # counted from the peaks: the details alone lack the cell
        assert status == 0
        assert "ln_mlp of layer 1, sequence 0" in " ".join(out.split()), flags
    told: list[dict[str, Any]] = []
    for flags in (("--quantisation", "mxfp4"), ("--criteria", "kurtosis"), ("--by", "layer")):
        _, out, _ = analyze("--store", damaged, "--skip-corrupt", *flags)
        assert "ln_mlp, layer 1, sequence 0" in " ".join(out.split()), flags
        _, out, _ = analyze("--store", damaged, "--skip-corrupt", "--format", "json", *flags)
        told.append(json.loads(out)["tables"][0])
    for flags in (("--published",), ("--emergence",)):
        _, out, _ = analyze(*asked, *flags, "--format", "json")
        told.append(json.loads(out)["tables"][0])
    assert all(table["excluded"] and table["excluded_as"] for table in told)
    status, _, err = analyze("--store", damaged, "--engine", "slices", "--null", "--skip-corrupt")
    assert status == 2
    assert "must be of all the data" in err
