"""What the terminal's answer begins with: a sentence, or bars, that say what the JSON says."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.cli import main
from analyze.tables.sparkline import BARS, PLAIN_BARS, sparkline
from tests.analyze.conftest import Command


@pytest.mark.parametrize("preset", ["moe-table", "llm-int8", "llm-int8-block", "majority"])
@pytest.mark.parametrize("magnitude", ["6", "1000"])
def test_the_answer_comes_first(preset: str, magnitude: str, noisy_store: Path, analyze: Command) -> None:
    flags = ("--store", noisy_store, "--definition", preset, "--magnitude", magnitude)
    _, out, _ = analyze(*flags)
    (result,) = json.loads(analyze(*flags, "--format", "json")[1])["results"]
    first = out.splitlines()[0]
    assert first.startswith(f"tiny at magnitude {magnitude}: ")
    if result["outliers"]:
        told = [int(number) for number in re.findall(r"\d+", first.split(": ")[1])]
        assert told == [result["outliers"], result["unique_features"], 12, 4]
    else:
        assert first.endswith("no outliers in 4 sequences")


def bars_of(out: str) -> tuple[str, str]:
    """The line of bars, and the bars."""
    (line,) = [line for line in out.splitlines() if line.startswith("Outliers from ")]
    return line, line.split(": ")[1].split(" (")[0]


def test_a_sweep_has_a_bar_for_each_magnitude(noisy_store: Path, analyze: Command) -> None:
    """In the order of magnitude, however they were asked."""
    _, out, _ = analyze("--store", noisy_store, "--magnitude", "300,2,6,4,8")
    results = json.loads(analyze("--store", noisy_store, "--magnitude", "2,4,6,8,300", "--format", "json")[1])[
        "results"
    ]
    counts = [result["outliers"] for result in results]
    line, bars = bars_of(out)
    assert line.startswith(f"Outliers from {counts[0]:,} at 2 to {counts[-1]:,} at 300: ")
    assert bars == sparkline(counts)
    assert bars[-1] == BARS[0]


def test_a_terminal_of_ascii_gets_ascii(noisy_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["--store", str(noisy_store), "--magnitude", "2:8:1"]) == 0
    _, bars = bars_of(written.getvalue().decode("ascii"))
    assert len(bars) == 7
    assert set(bars) <= set(PLAIN_BARS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=150))
def test_bars_are_as_high_as_counts_are_large(counts: list[int]) -> None:
    bars = sparkline(counts)
    assert len(bars) == min(len(counts), 60)
    if len(counts) > 60:
        return
    heights = [BARS.index(bar) for bar in bars]
    assert [height == 0 for height in heights] == [count == 0 for count in counts]
    assert all(
        h <= g for h, n in zip(heights, counts, strict=True) for g, m in zip(heights, counts, strict=True) if n <= m
    )
    if max(counts):
        assert heights[counts.index(max(counts))] == len(BARS) - 1
