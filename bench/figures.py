"""The figures that docs/benchmarks.md shows: kept in bench/figures.json, so that a row outlives the runs of others.

``python -m bench`` records the rows of the benchmarks that it runs, ``python -m bench.geometry`` that of one model.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["DOCUMENT", "Row", "as_document", "as_table", "load", "record_geometry", "record_ratios"]

FIGURES = Path(__file__).with_name("figures.json")
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"

Row = dict[str, str]
"""A row of a table: cells by column, in order."""

INTRODUCTION = """\
# Benchmarks

Written by `make bench` and `make geometry` from bench/figures.json; edits are lost.
"""

RATIOS = """\
## Ratios

Each compares two ways run in turn in one process, so it holds when the machine's speed drifts; its range over the
rounds tells how noisy the machine was. Seconds are medians and for orientation only. `make bench ONLY=name` renews the
rows of one benchmark.
"""

GEOMETRY = """\
## Full geometry

`make geometry MODEL=name`: a checkpoint of the model's full published geometry, with holes in sparse files for expert
weights, captured one layer at a time.
"""


def record_ratios(benchmark: str, rows: Sequence[Row], order: Sequence[str]) -> None:
    """Replace the rows of ``benchmark`` and write the document; ``order``: all benchmarks, as they are shown."""
    figures = load()
    figures["ratios"][benchmark] = {"machine": _machine(), "rows": list(rows)}
    figures["ratios"] = {name: figures["ratios"][name] for name in order if name in figures["ratios"]}
    _save(figures)


def record_geometry(model: str, row: Row) -> None:
    """Replace the row of ``model`` and write the document."""
    figures = load()
    figures["geometry"][model] = {"machine": _machine(), "row": row}
    _save(figures)


def as_table(rows: Sequence[Row]) -> str:
    """A Markdown table with every column that a row has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([row.get(column, "-") for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _machine() -> str:
    return f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"


def load() -> dict[str, Any]:
    """What is recorded: ``ratios`` by benchmark, ``geometry`` by model."""
    figures: dict[str, Any] = {"ratios": {}, "geometry": {}}
    if FIGURES.exists():
        figures |= json.loads(FIGURES.read_text())
    return figures


def as_document(figures: dict[str, Any]) -> str:
    """The text of docs/benchmarks.md."""
    ratios, geometry = figures["ratios"].values(), figures["geometry"].values()
    parts = [INTRODUCTION]
    for heading, held, rows in (
        (RATIOS, ratios, [row for part in ratios for row in part["rows"]]),
        (GEOMETRY, geometry, [part["row"] for part in geometry]),
    ):
        if rows:
            machines = "; ".join(dict.fromkeys(part["machine"] for part in held))
            parts.append(f"{heading}\nMeasured with {machines}.\n\n{as_table(rows)}")
    return "\n".join(parts)


def _save(figures: dict[str, Any]) -> None:
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    DOCUMENT.write_text(as_document(figures))
