"""Run benchmarks and record their figures; exit 1 where a ratio exceeds its bar."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from bench.figures import record_ratios
from schemas.command import run_command

BENCHMARKS = (
    "capture_overhead",
    "other_tools",
    "streamed_overhead",
    "disk_offload",
    "layer_reading",
    "threshold_answers",
    "slices_pass",
    "obvious_program",
    "report_page",
    "predictions",
    "accelerator",
)
"""Modules of this package whose ``run()`` yields comparisons, in the document's order. A new one is a name here."""


def run(names: Sequence[str]) -> int:
    """Run, print and record the benchmarks ``names``; the exit status."""
    over = []
    for name in names:
        rows = []
        for comparison in importlib.import_module(f"bench.{name}").run():
            rows.append(comparison.row())
            print(name, *(f"  {column}: {cell}" for column, cell in rows[-1].items()), sep="\n", flush=True)
            if comparison.bar is not None and comparison.ratio > comparison.bar:
                over.append(f"{comparison.name}: {comparison.ratio:.3g}, at most {comparison.bar:g}")
        if rows:
            record_ratios(name, rows, BENCHMARKS)
        else:
            print(f"bench: {name} needs an accelerator; what is recorded stays", file=sys.stderr)
    for line in over:
        print(f"bench: over its bar: {line}", file=sys.stderr)
    return int(bool(over))


def main() -> int:
    """The command: all benchmarks, or those named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    return run_command("bench", lambda: run(names or BENCHMARKS))


if __name__ == "__main__":
    sys.exit(main())
