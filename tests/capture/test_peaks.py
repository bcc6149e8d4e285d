"""Stored peaks and counts against loops over decoded values, with NaN and infinities that a model really computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Run
from tests.capture.captures import POSITIONS, SEQUENCES, capture
from tests.checkpoints import ARCHITECTURES, write_checkpoint
from tests.checkpoints.weights import State
from tests.stores import decoded_values

Array = np.ndarray[Any, Any]


def largest(values: Array, axis: int) -> Array:
    """Largest magnitude along an axis; a NaN is none."""
    return np.where(np.isnan(values), 0, np.abs(values)).max(axis=axis)


def assert_peaks(run: Run) -> None:
    bits = run.info.bits
    for site in run.info.stored_sites:
        values = decoded_values(run.read(site), bits)
        for name, axis in ((f"{site}_layer_peak", 2), (f"{site}_position_peak", 0)):
            stored = run.read(name)
            np.testing.assert_array_equal(decoded_values(stored, bits), largest(values, axis), err_msg=name)
            assert not np.signbit(decoded_values(stored, bits)).any()
        counts = [[int((~np.isfinite(cell)).sum()) for cell in layer] for layer in values]
        np.testing.assert_array_equal(run.read(f"{site}_nonfinite"), counts)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_peaks_are_those_of_the_slices(name: str, batch_size: int, captured: Callable[..., Run]) -> None:
    assert_peaks(captured(name, batch_size=batch_size))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", ["olmoe", "gpt_oss", "llama", "opt", "cohere"])
def test_peaks_in_other_dtypes(name: str, dtype: str, captured: Callable[..., Run]) -> None:
    assert_peaks(captured(name, dtype=dtype))


def damaged(state: State) -> None:
    """In the last MLP's input: feature 3 NaN, feature 4 infinite. (Its output, and so the loss, is NaN.)"""
    gain = state["model.layers.3.post_attention_layernorm.weight"]
    gain[3], gain[4] = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_nan_and_infinity_are_counted_and_passed_over(
    dtype: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3", dtype=dtype, edit=damaged)
    options = ("--sequences", SEQUENCES, "--length", POSITIONS, "--batch-size", 2)
    assert capture(folder, tmp_path / "run.zarr", text, *options) == 0
    run = Run(tmp_path / "run.zarr")
    assert_peaks(run)
    peaks = decoded_values(run.read("ln_mlp_layer_peak"), dtype)
    assert (peaks[3, :, 3] == 0).all()
    assert (peaks[3, :, 4] == np.inf).all()
    expected = np.zeros((4, SEQUENCES))
    expected[3] = 2 * POSITIONS
    np.testing.assert_array_equal(run.read("ln_mlp_nonfinite"), expected)
    assert not run.read("ln_attn_nonfinite").any()
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("non-finite"))
    assert f"{2 * POSITIONS * SEQUENCES} values" in line
    assert "ln_mlp layer 3 (144)" in line


def test_values_beyond_float16_become_infinities(text: Path, tmp_path: Path) -> None:
    def edit(state: State) -> None:
        state["model.layers.3.input_layernorm.weight"][5] = 6e4

    folder = write_checkpoint(tmp_path / "model", "llama", dtype="float32", edit=edit)
    options = ("--sequences", SEQUENCES, "--length", POSITIONS, "--dtype", "float16")
    assert capture(folder, tmp_path / "run.zarr", text, *options) == 0
    run = Run(tmp_path / "run.zarr")
    assert_peaks(run)
    counts = run.read("ln_attn_nonfinite")
    assert not counts[:3].any()
    assert (counts[3] > 0).all()
    assert (counts[3] < POSITIONS).any()  # some positions stay below 65,504: infinities and numbers side by side
