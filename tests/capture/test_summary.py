"""What a finished capture prints, read back against the store that it describes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capture.part import Part
from capture.summary import summarise
from schemas import ENCODINGS, Run
from schemas.create import create_run
from schemas.layout import Dimensions, plan_arrays
from schemas.run_writer import RunWriter
from tests.capture.captures import POSITIONS, SEQUENCES
from tests.stores import run_info, write_store


def summary_of(run: Run, seconds: float = 1.5, computed: int = 3) -> dict[str, str]:
    whole = run.dimensions.sequences
    lines = summarise(Path(run.path), seconds, computed, Part(0, whole, whole)).splitlines()
    return {line[:13].strip(): line[13:] for line in lines}


def made_up(path: Path, token_nll: Any) -> Run:
    """A store with these losses and nothing else in it."""
    write_store(path, {"ln_attn": np.zeros((1, *token_nll.shape, 2), np.float32)}, token_nll=token_nll)
    return Run(path)


def test_a_run_is_described(captured: Callable[..., Run]) -> None:
    run = captured("llama")
    lines = summary_of(run)
    files = [path.stat().st_size for path in Path(run.path).rglob("*") if path.is_file()]
    arrays = [run.array(name) for name in run.group.array_keys()]
    raw = sum(array.dtype.itemsize * int(np.prod(array.shape)) for array in arrays)
    assert lines["tokens"] == f"{SEQUENCES * POSITIONS} ({SEQUENCES} sequences x {POSITIONS})"
    assert float(lines["raw"].removesuffix(" kB")) == pytest.approx(raw / 1000, rel=0.01)
    assert float(lines["compressed"].split()[0]) == pytest.approx(sum(files) / 1000, rel=0.01)
    assert float(re.search(r"ratio ([\d.]+)", lines["compressed"])[1]) == pytest.approx(sum(files) / raw, abs=1e-3)  # type: ignore[index]
    losses = run.read("token_nll")[:, 1:].astype(np.float64)
    assert float(lines["perplexity"]) == pytest.approx(np.exp(losses.mean()), abs=0.006)
    assert lines["non-finite"] == "none"
    assert lines["seconds"] == "1.5"
    assert lines["store"] == str(run.path)
    assert lines["next"] == f"analyze --store {run.path} --magnitude 2:7:1"
    assert summary_of(run, computed=0)["seconds"] == "1.5 (nothing to compute)"


def test_perplexity_is_the_exponential_of_the_mean_loss(tmp_path: Path) -> None:
    losses = np.array([[np.nan, 1.0, 2.0], [np.nan, 3.0, 6.0]])
    assert summary_of(made_up(tmp_path / "run.zarr", losses))["perplexity"] == "20.09"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_no_number_is_not_passed_over(value: float, tmp_path: Path) -> None:
    losses = np.array([[np.nan, 1.0, 2.0], [np.nan, 3.0, value]])
    line = summary_of(made_up(tmp_path / "run.zarr", losses))["perplexity"]
    assert line == "none (1 of 4 losses are NaN or infinite)"


def test_one_position_has_no_perplexity(tmp_path: Path) -> None:
    line = summary_of(made_up(tmp_path / "run.zarr", np.full((2, 1), np.nan)))["perplexity"]
    assert line == "none (one position has no next token)"


def test_the_cells_with_most_bad_values_are_named(tmp_path: Path) -> None:
    dimensions = Dimensions(layers=5, sequences=2, positions=3, features=2)
    sites = ["ln_attn", "ln_mlp"]
    create_run(tmp_path / "r", run_info(dimensions, sites), plan_arrays(dimensions, sites, ENCODINGS["bfloat16"]), {})
    counts = np.zeros((5, 2), np.uint64)
    counts[1], counts[4] = [3, 1], [0, 2]
    writer = RunWriter(tmp_path / "r")
    writer.write("ln_attn_nonfinite", (slice(None),), counts)
    writer.write("ln_mlp_nonfinite", (slice(None),), counts[::-1] * np.uint64(1000))
    writer.write("token_nll", (slice(None),), np.zeros((2, 3), np.float32))
    writer.commit(range(5), range(2))
    line = summary_of(Run(tmp_path / "r"))["non-finite"]
    assert line == (
        "6,006 values are NaN or infinite, most in ln_mlp layer 3 (4,000), ln_mlp layer 0 (2,000), ln_attn layer 1 (4)"
    )
