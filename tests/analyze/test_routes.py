"""Peaks and slices give the same answer, one magnitude or many give the same answer, however memory is bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.statistics.cells import CellReader
from analyze.thresholds import peaks, tally
from analyze.thresholds.answers import answer
from analyze.thresholds.question import ask
from schemas.layout import layer_peak_name, position_peak_name
from schemas.run import Run
from tests.analyze.comparison import content
from tests.analyze.worlds import PRESETS, SHARES, World, stored, worlds
from tests.stores import write_store


@settings(max_examples=12, deadline=None)
@given(worlds(), st.sampled_from(SHARES), st.sampled_from(SHARES), st.sampled_from(PRESETS))
def test_both_routes_say_the_same(world: World, layers: str, positions: str, preset: str) -> None:
    with stored(world) as (path, _):
        shares = {"layers": layers, "positions": positions, "definition": preset}
        from_peaks = answer(path, ask("0.5:13:0.5", engine="peaks", **shares))  # type: ignore[arg-type]
        slices = answer(path, ask("0.5:13:0.5", engine="slices", **shares))  # type: ignore[arg-type]
        assert {result.plan.answered_from for result in from_peaks} == {"peaks"}
        assert {result.plan.answered_from for result in slices} == {"slices"}
        assert [content(result) for result in from_peaks] == [content(result) for result in slices]


@pytest.mark.parametrize("preset", PRESETS)
def test_details_do_not_depend_on_the_route_of_the_counts(noisy_store: Path, preset: str) -> None:
    mixed = answer(noisy_store, ask("4,6,14", definition=preset, details=True))
    slices = answer(noisy_store, ask("4,6,14", definition=preset, details=True, engine="slices"))
    assert {result.plan.answered_from for result in mixed} == {"peaks+slices"}
    assert {result.plan.answered_from for result in slices} == {"slices"}
    assert mixed[0].outliers > mixed[2].outliers > 0
    assert [content(result) for result in mixed] == [content(result) for result in slices]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("details", [False, True])
def test_a_sweep_is_its_single_questions(noisy_store: Path, preset: str, details: bool) -> None:
    magnitudes = ["14", "6", "6.001", "6.002", "250"]
    sweep = answer(noisy_store, ask(",".join(magnitudes), definition=preset, details=details))
    single = [answer(noisy_store, ask(m, definition=preset, details=details))[0] for m in magnitudes]
    assert [content(result) for result in sweep] == [content(result) for result in single]
    assert sweep[0].outliers > 0


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the arrays that are read from now on, by zarr-python or without it; a read each."""
    names: list[str] = []
    original, thin = Run.read, peaks.read_whole_chunks

    def counted(self: Run, name: str, index: tuple[int | slice, ...] = ()) -> Any:
        names.append(name)
        return original(self, name, index)

    def thinly(folder: str, array: Any, index: tuple[int | slice, ...]) -> Any:
        found = thin(folder, array, index)
        if found is not None:
            names.append(Path(folder).name)
        return found

    monkeypatch.setattr(Run, "read", counted)
    monkeypatch.setattr(peaks, "read_whole_chunks", thinly)
    return names


def test_a_sweep_reads_the_peaks_once(noisy_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reads(monkeypatch)
    answer(noisy_store, ask("2:12:0.01"))
    assert read.count(position_peak_name("ln_attn")) == 4
    assert read.count("ln_attn") == 0


def test_the_slices_route_reads_no_stored_peak(noisy_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reads(monkeypatch)

    def of_cell(self: CellReader, array: str, *rest: object) -> object:
        read.append(array)
        return rows(self, array, *rest)  # type: ignore[arg-type]

    rows = CellReader._rows
    monkeypatch.setattr(CellReader, "_rows", of_cell)
    answer(noisy_store, ask("6", engine="slices", details=True))
    assert {"ln_attn", "ln_mlp"} <= set(read)
    stored_peaks = {name(site) for site in ("ln_attn", "ln_mlp") for name in (layer_peak_name, position_peak_name)}
    assert not set(read) & stored_peaks


@pytest.mark.parametrize("preset", ["llm-int8", "llm-int8-block"])
def test_pooled_positions_in_less_memory_take_more_passes(
    noisy_store: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = ask("3,6", definition=preset)
    at_once = [content(result) for result in answer(noisy_store, question)]
    passes = 0
    original = tally.LargestValues

    class Counted(original):  # type: ignore[misc, valid-type]
        def kth(self) -> object:
            nonlocal passes
            passes += 1
            return super().kth()

    monkeypatch.setattr(tally, "LargestValues", Counted)
    monkeypatch.setattr(tally, "POOLED_BYTES", 80)
    assert [content(result) for result in answer(noisy_store, question)] == at_once
    assert passes == 4  # 12 features x (5 values x 2 bytes + 2 counts x 8 bytes)


@pytest.fixture
def copied_peaks(tmp_path: Path) -> tuple[Path, Path]:
    """A store with and one without slices, of the same values."""
    values = {"ln_attn": np.random.default_rng(1).normal(0, 5, (3, 2, 6, 4)).astype(np.float32)}
    write_store(tmp_path / "whole.zarr", values)
    write_store(tmp_path / "peaks.zarr", values, slices=False)
    return tmp_path / "whole.zarr", tmp_path / "peaks.zarr"


def test_a_store_of_peaks_answers_from_them(copied_peaks: tuple[Path, Path]) -> None:
    whole, alone = (answer(path, ask("2:8:1")) for path in copied_peaks)
    assert [content(result) for result in whole] == [content(result) for result in alone]


@pytest.mark.parametrize("flag", ["--engine slices", "--details"])
def test_a_store_of_peaks_says_that_it_has_no_slices(copied_peaks: tuple[Path, Path], flag: str) -> None:
    question = ask("6", details=True) if flag == "--details" else ask("6", engine="slices")
    with pytest.raises(ValueError, match=f"holds peaks only, no slices of 'ln_attn', which {flag} reads"):
        answer(copied_peaks[1], question)
