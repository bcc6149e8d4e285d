"""A pass stays within what it predicts, whatever the store's size, and a limit below one chunk is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analyze.memory import bytes_text, default_memory_limit, limit_text, machine_bytes, parse_bytes
from analyze.statistics.measure import measure
from analyze.statistics.moments import Moments
from schemas.errors import InputError
from schemas.run import Run
from tests.stores import write_store

MEASURED = """
import json, sys
from analyze.resources import Resources
from analyze.thresholds.answers import answer
from analyze.thresholds.question import ask
from analyze.statistics import measure as measuring
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.moments import Moments
from schemas.run import Run
plans = []
original = measuring.plan_pass
def kept(*arguments, **named):
    plans.append(original(*arguments, **named))
    return plans[-1]
measuring.plan_pass = kept
limit = int(sys.argv[2])
measuring.measure(Run(sys.argv[1]), [Exceedances(("2", "6")), Moments()], memory_limit=limit, threads=2, cache=False)
for question in ask("6", engine="slices"), ask("2:12:0.25", position_coverage="density"):
    answer(sys.argv[1], question, resources=Resources(memory_limit=limit, threads=2))
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([peak, max(plan.peak_bytes for plan in plans)]))
"""


def peak_of(store: Path, limit: int) -> tuple[int, int]:
    """(measured, predicted) bytes at the peak of a process that makes three passes over ``store``."""
    command = [sys.executable, "-c", MEASURED, str(store), str(limit)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    measured, predicted = json.loads(found.stdout)
    return measured, predicted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_three_times_the_store_takes_the_same_memory(tmp_path: Path) -> None:
    """Of 60 and 180 MB; what is predicted holds, and so does the limit."""
    values = np.random.default_rng(0).normal(0, 2, (5, 12, 1024, 512)).astype(np.float32)
    write_store(tmp_path / "one.zarr", {"ln_attn": values[:, :4]})
    write_store(tmp_path / "three.zarr", {"ln_attn": values})
    limit = 600 * 2**20
    one, _ = peak_of(tmp_path / "one.zarr", limit)
    three, predicted = peak_of(tmp_path / "three.zarr", limit)
    assert three < 1.1 * one
    assert three <= predicted <= limit


def test_a_limit_below_one_chunk_says_what_is_enough(noisy_store: Path) -> None:
    with pytest.raises(
        InputError, match=r"--memory-limit 1 MB is too small: one chunk of .* takes .* beside the [0-9.]+ [MG]B"
    ):
        measure(Run(noisy_store), [Moments()], memory_limit=10**6, cache=False)


def test_the_default_is_a_quarter_of_the_machine() -> None:
    assert default_memory_limit() == machine_bytes() // 4
    assert machine_bytes() > 2**28


@pytest.mark.parametrize(("text", "size"), [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("7m", 7 * 10**6), ("12", 12)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "4XB", "-1GB", "0", "1e9", "4 i", "9" * 50])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--memory-limit"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["1 KB", "1 KiB", "512 MiB", "1.5 GB", "0.25 TiB", "12 bytes", "1 byte"])
def test_a_limit_is_told_as_it_was_typed(text: str) -> None:
    exact = parse_bytes(text.removesuffix("ytes").removesuffix("yte"))
    assert limit_text(exact) == text.replace("0.25 TiB", "256 GiB")


def test_sizes_are_told_rounded_up() -> None:
    assert [bytes_text(size) for size in (1, 10**6 + 1, 10**9, 10**9 + 1)] == ["1 MB", "2 MB", "1.0 GB", "1.1 GB"]
