"""What one would first write with Dask and xarray: decode to float32, compare, reduce, a pass for each threshold.

Of slices of Qwen3-30B's geometry, the table's counts (hits in a share of layers and of positions) at 40 magnitudes,
which ``analyze --magnitude 2:11.75:0.25`` answers; then hits by cell and feature, which a pass over the slices counts
for all 40 at once. Time and memory are those of processes that do nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyze import sweep
from analyze.resources import Resources
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from bench.rounds import Comparison
from bench.slices_store import SITES, write_slices
from schemas.layout import Dimensions
from schemas.run import Run

__all__ = ["MAGNITUDES", "run"]

TABLE = Dimensions(layers=48, sequences=4, positions=2048, features=2048)
"""Of the 16 sequences four, 3.2 GB: both programs do the same for each."""
COUNTS = Dimensions(layers=48, sequences=1, positions=2048, features=2048)
MAGNITUDES = tuple(str(2 + i / 4) for i in range(40))
THREADS = 2
THRESHOLDS = 2
"""That the obvious program is run for; its time is taken times as many as there are in MAGNITUDES."""
ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """A task, once in each of some processes: seconds, bytes at the peak, those of these above imports; its answer."""

    seconds: list[float]
    peak_bytes: list[int]
    own_bytes: list[int]
    answer: list[int]


def run() -> Iterator[Comparison]:
    """The table's sweep, from peaks and from slices, then the counts; takes 4 GB in the folder for temporary files."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _table(Path(folder, "table.zarr"))
        yield from _counts(Path(folder, "counts.zarr"))


def _table(store: Path) -> Iterator[Comparison]:
    write_slices(store, TABLE)
    d = TABLE
    size = f"{d.layers} layers x 2 sites x {d.sequences} x {d.positions} x {d.features}"
    obvious = _process(store, "obvious_table")
    against = "the table by decoding to float32, comparing, reducing with Dask and xarray, a pass each"
    for route, bar in (("peaks", 0.1), ("slices", 0.1)):
        ours = _process(store, f"swept_{route}")
        if ours.answer[:THRESHOLDS] != obvious.answer:
            raise AssertionError(f"{route} answer {ours.answer[:THRESHOLDS]}, the obvious program {obvious.answer}")
        what = f"the table at 40 magnitudes from the {route} of {size}, nothing kept"
        yield _times(what, against, ours, obvious, bar)
        yield _bytes(
            f"bytes that this takes from the {route}: its process's peak above what is held once all is imported",
            "the same of the obvious program",
            ours.own_bytes,
            obvious.own_bytes,
            0.25 if route == "peaks" else None,
        )
        yield _bytes(
            f"its whole process from the {route}, packages among them",
            "the obvious program's whole process",
            ours.peak_bytes,
            obvious.peak_bytes,
        )


def _counts(store: Path) -> Iterator[Comparison]:
    write_slices(store, COUNTS)
    ours, obvious, peaks = (_process(store, task) for task in ("counted", "obvious_counts", "obvious_counts_and_peaks"))
    yield _times(
        f"peaks and counts at 40 magnitudes of {COUNTS.sequences} sequence of the same geometry",
        "counts by decoding to float32, comparing, reducing with Dask and xarray, a pass each",
        ours,
        obvious,
        0.1,
    )
    yield _bytes(
        "bytes that this takes above its imports, of which the counts at 40 magnitudes are 63 MB",
        "the same of the obvious program, which keeps counts at one threshold and no position peaks",
        ours.own_bytes,
        obvious.own_bytes,
    )
    yield _bytes(
        "the same bytes",
        f"of the obvious program that gives both peaks too, and counts at {THRESHOLDS} magnitudes",
        ours.own_bytes,
        peaks.own_bytes,
    )


def _times(what: str, against: str, ours: Measured, obvious: Measured, bar: float | None) -> Comparison:
    scale = len(MAGNITUDES) / THRESHOLDS
    baseline = [seconds * scale for seconds in obvious.seconds]
    return Comparison(what, f"{against}: {THRESHOLDS}, x {scale:g}", ours.seconds, baseline, bar)


def _bytes(
    what: str, against: str, ours: Sequence[int], obvious: Sequence[int], bar: float | None = None
) -> Comparison:
    return Comparison(what, against, [b / 1e9 for b in ours], [b / 1e9 for b in obvious], bar, unit="GB")


def swept_peaks(store: Path) -> list[int]:
    """Outliers by the default definition at each magnitude, answered from the store's peaks."""
    return _swept(store, "peaks")


def swept_slices(store: Path) -> list[int]:
    """The same from its slices."""
    return _swept(store, "slices")


def _swept(store: Path, engine: str) -> list[int]:
    found = sweep(store, MAGNITUDES, engine=engine, resources=Resources(threads=THREADS, cache=False))
    return [int(count) for count in found.outliers]


def counted(store: Path) -> list[int]:
    """Peaks and hits by cell and feature at each magnitude."""
    measure(Run(store), [Exceedances(MAGNITUDES), LayerPeaks(), PositionPeaks()], threads=THREADS, cache=False)
    return []


def obvious_table(store: Path) -> list[int]:
    """Outliers by the default definition at some magnitudes, as one would first write it."""
    import dask

    from schemas.dataset import open_run

    counts = []
    magnitudes = abs(open_run(store, chunks={})[list(SITES)].to_array("site"))
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        for magnitude in MAGNITUDES[:THRESHOLDS]:
            hits = magnitudes >= float(magnitude)
            layers = hits.any("position").mean(["site", "layer"])
            positions = hits.any(["site", "layer"]).mean("position")
            counts.append(int(((layers >= 0.25) & (positions >= 0.06)).sum().compute()))
    return counts


def obvious_counts(store: Path) -> list[int]:
    """Hits by cell and feature, a pass for each threshold."""
    _obvious_counts(store)
    return []


def _obvious_counts(store: Path) -> list[Any]:
    import dask

    from schemas.dataset import open_run

    magnitudes = abs(open_run(store, chunks={})[list(SITES)])
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        return [
            (magnitudes >= float(magnitude)).sum(["sequence", "position"]).compute()
            for magnitude in MAGNITUDES[:THRESHOLDS]
        ]


def obvious_counts_and_peaks(store: Path) -> list[int]:
    """That, and the peaks along both axes, each in a pass."""
    import dask

    from schemas.dataset import open_run

    kept = _obvious_counts(store)
    magnitudes = abs(open_run(store, chunks={})[list(SITES)])
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        kept.append(magnitudes.max("position").compute())
        highest: Any = np.maximum
        kept.append(highest(*(magnitudes[site].max("layer") for site in SITES)).compute())
    return []


_PROCESS = """
import json, sys, time
from pathlib import Path
import dask.array, dask.delayed, xarray
from bench import obvious_program as bench
if not sys.argv[2].startswith("obvious"):
    import analyze.thresholds.asking, analyze.statistics.peak_kernel
def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))
imported = status("VmRSS")
started = time.perf_counter()
answer = getattr(bench, sys.argv[2])(Path(sys.argv[1]))
seconds = time.perf_counter() - started
peak = status("VmHWM")
print(json.dumps([seconds, peak, peak - imported, answer]))
"""


def _process(store: Path, task: str) -> Measured:
    words = [sys.executable, "-c", _PROCESS, str(store), task]
    if not task.startswith("obvious"):
        subprocess.run(words, capture_output=True, check=True)  # numba compiles once and keeps it
    told = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for _ in range(ROUNDS)]
    seconds, peaks, own, answers = zip(*map(json.loads, told), strict=True)
    return Measured(list(seconds), list(peaks), list(own), answers[0])
