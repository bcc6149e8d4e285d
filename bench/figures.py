"""The figures that docs/benchmarks.md shows: kept in bench/figures.json, so that a row outlives the runs of others.

``python -m bench`` records the rows of the benchmarks that it runs, ``python -m bench.geometry`` that of one model.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["DOCUMENT", "Row", "as_document", "as_table", "load", "record_geometry", "record_ratios"]

FIGURES = Path(__file__).with_name("figures.json")
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"

ON_ACCELERATOR = "accelerator"
"""The benchmark whose rows are apart: another machine's."""

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

ACCELERATOR = """\
## On an accelerator

Ratios and predictions as above, by `make bench ONLY=accelerator` on a machine that has one. Models are random: layers
of Qwen3-30B's geometry, and a dense one of Llama 3.2 1B's. Forwards take an accelerator little time: what a capture
adds is the host's work, and writing.
"""

GEOMETRY = """\
## Full geometry

`make geometry MODEL=name`: a checkpoint of the model's full published geometry, with holes in sparse files for expert
weights, captured one layer at a time.
"""


def record_ratios(benchmark: str, rows: Sequence[Row], order: Sequence[str]) -> None:
    """Replace the rows of ``benchmark`` and write the document; ``order``: all benchmarks, as they are shown.

    Those of the benchmark ON_ACCELERATOR are a table of their own.
    """
    figures = load()
    figures["ratios"][benchmark] = {"machine": _machine(benchmark == ON_ACCELERATOR), "rows": list(rows)}
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


def _machine(accelerator: bool = False) -> str:
    import torch

    from capture.processors import processors

    instructions = torch.backends.cpu.get_cpu_capability()
    amx = ", AMX" if "amx_bf16" in _flags() else ""
    cores = f"{processors()} {platform.machine()} cores ({instructions}{amx})"
    machine = f"{cores}, Python {platform.python_version()}, torch {torch.__version__}"
    if not accelerator:
        return machine

    from capture.device import choose_device, device_name

    return f"{device_name(choose_device('auto'))}, {machine}"


def _flags() -> str:
    """What the processor can do, where the system says so."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def load() -> dict[str, Any]:
    """What is recorded: ``ratios`` by benchmark, ``geometry`` by model."""
    figures: dict[str, Any] = {"ratios": {}, "geometry": {}}
    if FIGURES.exists():
        figures |= json.loads(FIGURES.read_text())
    return figures


def as_document(figures: dict[str, Any]) -> str:
    """The text of docs/benchmarks.md."""
    held = figures["ratios"]
    ratios = [part for name, part in held.items() if name != ON_ACCELERATOR]
    accelerator = [part for name, part in held.items() if name == ON_ACCELERATOR]
    geometry = figures["geometry"].values()
    parts = [INTRODUCTION]
    for heading, of in ((RATIOS, ratios), (ACCELERATOR, accelerator), (GEOMETRY, geometry)):
        tables: dict[str, list[Row]] = {}
        for part in of:
            tables.setdefault(part["machine"], []).extend(part["rows"] if "rows" in part else [part["row"]])
        if tables:
            parts.append(heading)
            parts += [f"Measured with {machine}.\n\n{as_table(rows)}" for machine, rows in tables.items()]
    return "\n".join(parts)


def _save(figures: dict[str, Any]) -> None:
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    DOCUMENT.write_text(as_document(figures))
