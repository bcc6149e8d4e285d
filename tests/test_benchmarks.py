"""docs/benchmarks.md is what the recorded figures say, and a row outlives runs of other benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import figures
from bench.__main__ import BENCHMARKS
from bench.rounds import Comparison, compare


def test_the_document_is_made_of_the_recorded_figures() -> None:
    assert figures.DOCUMENT.read_text() == figures.as_document(figures.load())


def test_every_benchmark_is_a_module_and_what_is_recorded_is_a_benchmark() -> None:
    folder = Path(figures.__file__).parent
    assert all((folder / f"{name}.py").is_file() for name in BENCHMARKS)
    assert set(figures.load()["ratios"]) <= set(BENCHMARKS)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The document, written to a folder of its own."""
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(figures, "DOCUMENT", tmp_path / "benchmarks.md")
    return tmp_path / "benchmarks.md"


def test_a_row_is_replaced_by_its_own_benchmark_alone(recorded: Path) -> None:
    figures.record_ratios("b", [{"what": "second", "ratio": "1"}], ["a", "b"])
    figures.record_geometry("small", {"model": "small", "seconds": "9"})
    figures.record_ratios("a", [{"what": "first", "ratio": "2"}], ["a", "b"])
    figures.record_ratios("b", [{"what": "second", "ratio": "3"}], ["a", "b"])
    tables = [line for line in recorded.read_text().splitlines() if line.startswith("|")]
    assert tables == [
        "| what | ratio |",
        "| --- | --- |",
        "| first | 2 |",
        "| second | 3 |",
        "| model | seconds |",
        "| --- | --- |",
        "| small | 9 |",
    ]


def test_rounds_alternate_and_prepare_before_each() -> None:
    calls: list[str] = []

    def called(name: str) -> Any:
        return lambda: calls.append(name)

    made = compare("x", called("x"), "y", called("y"), rounds=2, bar=1.0, prepare=called("-"))
    assert "".join(calls) == "-x-y" + "-x-y" + "-y-x"
    assert len(made.seconds) == len(made.baseline_seconds) == 2


def test_a_row_quotes_the_median_of_the_ratios() -> None:
    row = Comparison("x", "y", [2.0, 3.0, 8.0], [1.0, 2.0, 2.0], 1.25).row()
    assert list(row.values()) == ["x", "y", "2", "1.5 to 4", "at most 1.25", "3.00 s", "2.00 s"]
