"""Run every benchmark and write docs/benchmarks.md; exit 1 where a ratio exceeds its bar."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from bench import capture_overhead, layer_reading, threshold_answers

BENCHMARKS = (capture_overhead, layer_reading, threshold_answers)
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"

HEADER = """\
# Benchmarks

Written by `make bench`; edits are lost. A ratio compares two ways run in turn in one process, so it holds when the
machine's speed drifts; its range over the rounds tells how noisy the machine was. Seconds are medians and for
orientation only.

Measured with {cores} {machine} cores, Python {python}.

| what | against | ratio (median) | range | bar | takes | baseline takes |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    """Run, print and write; the exit status."""
    comparisons = []
    for benchmark in BENCHMARKS:
        for comparison in benchmark.run():
            print(comparison.row(), flush=True)
            comparisons.append(comparison)
    header = HEADER.format(cores=os.cpu_count(), machine=platform.machine(), python=platform.python_version())
    DOCUMENT.write_text(header + "".join(f"{comparison.row()}\n" for comparison in comparisons))
    over = [c.name for c in comparisons if c.bar is not None and c.ratio > c.bar]
    for name in over:
        print(f"bench: over its bar: {name}", file=sys.stderr)
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main())
