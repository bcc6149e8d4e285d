"""--info: sizes and counts against the files themselves, and every claim of what can be asked against asking it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze import info
from analyze.cli import main
from schemas.provenance import NormInfo
from schemas.run import Run, store_bytes
from tests.analyze.conftest import Command
from tests.analyze.criteria.mixture import make_mixture
from tests.stores import write_store

ASKED: dict[str, list[list[str]]] = {
    "outliers, sweeps": [["--magnitude", "0.5"]],
    "chance, overlap, saturation": [["--magnitude", "0.5", "--overlap"]],
    "hits, ties, quartiles": [["--magnitude", "6", "--details"]],
    "other knobs and ranges": [["--magnitude", "6", "--positions-range", "1:"]],
    "units of gain": [["--magnitude", "600", "--in-gain-units"]],
    "hits by layer and position": [["--magnitude", "6", "--by", "layer"], ["--magnitude", "6", "--by", "position"]],
    "hits by expert": [["--magnitude", "6", "--by", "expert"]],
    "criteria of norm outputs": [["--criteria", "kurtosis"]],
    "criteria of the residual": [["--criteria", "massive"]],
    "super experts": [["--criteria", "super-experts"]],
    "quantisation error": [["--quantisation", "int8-absmax-token"]],
}
"""Flags that ask each kind of question; magnitudes above the floor of the store that has one."""

Maker = Callable[[Path], Any]


def dense(path: Path) -> Any:
    """A store without norms or experts."""
    return write_store(path, {"ln_attn": np.full((2, 2, 5, 3), 7, np.float32)})


STORES: dict[str, Maker] = {
    "whole": make_mixture,
    "residual": lambda path: make_mixture(path, residual=True),
    "zero gain": lambda path: make_mixture(path, odd_gain=0),
    "floor": lambda path: make_mixture(path, floor="5"),
    "peaks": lambda path: make_mixture(path, slices=False),
    "dense": dense,
    "partial": lambda path: make_mixture(path, complete=False),
    "empty": lambda path: make_mixture(path, missing=[(0, 0), (1, 1), (3, 2)]),
}


@pytest.mark.parametrize("kind", STORES)
def test_what_it_says_can_be_asked_can_be_asked_and_nothing_else(kind: str, tmp_path: Path, analyze: Command) -> None:
    path = tmp_path / "s.zarr"
    STORES[kind](path)
    told = {one.question: one.possible for one in info(path).answers}
    assert set(told) == set(ASKED)
    for question, questions in ASKED.items():
        for flags in questions:
            status, _, err = analyze("--store", path, "--partial", "-q", "--no-cache", *flags)
            assert (status == 0) is told[question], (question, err)


def test_the_least_magnitude_in_units_of_gain_can_be_asked(tmp_path: Path, analyze: Command) -> None:
    """Below a floor of 5 with a gain of 3 as the smallest: from 5 / 3 on, which is 1.667 and not 1.6666."""
    path, gain = tmp_path / "s.zarr", np.full((1, 3), 3, np.float32)
    norms = {"ln_attn": NormInfo(kind="rms", eps=1e-6, gain="weight", modules=["norm"])}
    for floor, least in (("5", "1.667"), ("4", "1.334")):
        shutil.rmtree(path, ignore_errors=True)
        write_store(
            path,
            {"ln_attn": np.full((1, 2, 5, 3), 7, np.float32)},
            norms=norms,
            beside={"ln_attn_gain": gain},
            floor=floor,
        )
        (told,) = [one.words for one in info(path).answers if one.question == "units of gain"]
        assert told == f"from the slices, at magnitudes from {least} on"
        status, _, err = analyze("--store", path, "--in-gain-units", "--magnitude", least, "-q", "--no-cache")
        assert (status, err) == (0, "")


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    values = {"ln_attn": np.zeros((2, 3, 7, 4), np.float32)}
    write_store(path, values, complete=False, position_chunk=3)  # chunks of 3, 3 and 1 positions
    found = info(path)
    assert found.stored_bytes == store_bytes(path)
    arrays = {array.name: array for array in found.arrays}
    assert set(arrays) == set(Run(path).group.array_keys())
    slices = arrays["ln_attn"]
    assert (slices.chunks, slices.chunks_there) == (18, 15)  # three chunks of the cell that is missing are not
    assert slices.raw_bytes == 5 * 7 * 4 * 2
    assert slices.stored_bytes == sum(file.stat().st_size for file in (path / "ln_attn").glob("c.*"))
    assert found.raw_bytes == sum(array.raw_bytes or 0 for array in found.arrays)
    assert (found.complete, found.cells, found.cells_total) == ((0, 1), 5, 6)
    assert found.finishing_command == f"capture --model 'tiny model' --store {path}"
    assert not found.being_written


def test_of_a_complete_store_raw_is_what_capture_calls_raw(noisy_store: Path) -> None:
    run = Run(noisy_store)
    found = info(run)
    assert found.raw_bytes == sum(run.array(name).nbytes for name in run.group.array_keys())
    assert found.ratio == store_bytes(noisy_store) / found.raw_bytes
    assert found.finishing_command is None


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown", "latex"])
def test_every_format_shows_a_store(form: str, noisy_store: Path, tmp_path: Path, analyze: Command) -> None:
    other = shutil.copytree(noisy_store, tmp_path / "other.zarr")
    status, out, err = analyze("--store", noisy_store, other, "--info", "--format", form)
    assert (status, err) == (0, "")
    assert out.count("TinyForCausalLM") >= 2
    if form == "json":
        tables = json.loads(out)["tables"]
        assert [table["table"] for table in tables] == ["store", "answers", "arrays"] * 2
        assert tables[0]["complete"] is True
        assert tables[0]["run"] == Run(noisy_store).info.model_dump(mode="json")
        assert tables[2]["rows"][0]["shape"] == "5 x 4 x 20 x 12"


def test_info_is_asked_alone(noisy_store: Path, analyze: Command) -> None:
    status, out, err = analyze("--store", noisy_store, "--info", "--magnitude", "7")
    assert (status, out) == (2, "")
    assert "--magnitude is another question than --info" in err


def test_a_hostile_name_is_text_in_a_notebook(tmp_path: Path) -> None:
    name = '<script>alert("x")</script>&\u202e'
    write_store(tmp_path / "s.zarr", {"ln_attn": np.full((1, 1, 2, 2), 7, np.float32)}, model={"name": name})
    from analyze import answer, ask, overview

    (result,) = answer(tmp_path / "s.zarr", ask("6"))
    seen = overview(tmp_path / "s.zarr", "6,7", engine="peaks")
    for html in (result._repr_html_(), info(tmp_path / "s.zarr")._repr_html_(), seen._repr_html_()):
        assert "<script" not in html
        assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;" in html
        assert html.count("<table>") == html.count("</table>") > 0


def test_a_store_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(tmp_path), "--info"]) == 2
    assert "it has no zarr.json" in capsys.readouterr().err
