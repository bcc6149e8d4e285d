"""What a pass over the slices costs: against decoding them, and against the obvious program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from bench.rounds import Comparison, compare
from bench.slices_store import SITES, write_slices
from schemas.chunk_reading import ChunkReader
from schemas.layout import Dimensions
from schemas.run import Run

__all__ = ["run"]

QWEN3_30B = Dimensions(layers=48, sequences=4, positions=2048, features=2048)
"""Of its 16 sequences four, 3.2 GB: the pass does the same for each."""
SMOLLM2 = Dimensions(layers=30, sequences=16, positions=2048, features=576)
MAGNITUDES = tuple(str(2 + i / 4) for i in range(41) if i < 40)
THREADS = 2
OBVIOUS_SEQUENCES = 1
OBVIOUS_THRESHOLDS = 2


def run() -> Iterator[Comparison]:
    """The pass against raw decoding, of two geometries, then against the obvious program."""
    with tempfile.TemporaryDirectory() as folder:
        for name, d in (("SmolLM2", SMOLLM2), ("Qwen3-30B", QWEN3_30B)):
            store = Path(folder, f"{name}.zarr")
            write_slices(store, d)
            size = f"{d.layers} layers x 2 sites x {d.sequences} x {d.positions} x {d.features}"
            yield compare(
                f"peaks and counts at 40 magnitudes from all slices of {name}'s geometry ({size})",
                lambda store=store: _measured(store),  # type: ignore[misc]
                "reading, checking and decoding its chunks into memory that is used again, two threads",
                lambda store=store: _decoded(store),  # type: ignore[misc]
                rounds=3,
                bar=1 / 0.6,
            )
            if d is SMOLLM2:
                shutil.rmtree(store)
        few = Dimensions(QWEN3_30B.layers, OBVIOUS_SEQUENCES, QWEN3_30B.positions, QWEN3_30B.features)
        small = Path(folder, "few.zarr")
        shutil.rmtree(Path(folder, "Qwen3-30B.zarr"))
        write_slices(small, few)
        ours, obvious, peaks = (_process(small, task) for task in ("ours", "obvious", "obvious_with_peaks"))
        scale = len(MAGNITUDES) / OBVIOUS_THRESHOLDS
        yield Comparison(
            f"peaks and counts at 40 magnitudes of {OBVIOUS_SEQUENCES} sequence of Qwen3-30B's geometry",
            f"decode to float32, compare, reduce with Dask and xarray, a pass each: {OBVIOUS_THRESHOLDS}, x {scale:g}",
            [seconds for seconds, *_ in ours],
            [seconds * scale for seconds, *_ in obvious],
            0.1,
        )
        yield Comparison(
            "bytes at the peak of that pass's process, its packages among them",
            "bytes at the peak of the obvious program's process",
            [peak / 1e9 for _, peak, _ in ours],
            [peak / 1e9 for _, peak, _ in obvious],
            0.25,
            unit="GB",
        )
        yield Comparison(
            "of these, what the pass itself takes: the peak above what is held once all packages are imported",
            "the same of the obvious program, which keeps counts at one threshold and no position peaks",
            [work / 1e9 for *_, work in ours],
            [work / 1e9 for *_, work in obvious],
            None,
            unit="GB",
        )
        yield Comparison(
            "the same bytes that the pass itself takes",
            f"of the obvious program that gives both peaks too, and counts at {OBVIOUS_THRESHOLDS} magnitudes",
            [work / 1e9 for *_, work in ours],
            [work / 1e9 for *_, work in peaks],
            None,
            unit="GB",
        )


def _measured(store: Path) -> None:
    measure(Run(store), [Exceedances(MAGNITUDES), LayerPeaks(), PositionPeaks()], threads=THREADS, cache=False)


def _decoded(store: Path) -> None:
    run = Run(store)
    own = threading.local()

    def read(task: tuple[ChunkReader, tuple[int, ...]]) -> None:
        reader, chunk = task
        if not hasattr(own, "memory"):
            own.memory = np.empty(reader.shape[2:], reader.dtype)
        reader.read(chunk, own.memory)

    tasks = []
    for site in SITES:
        reader = ChunkReader.of(str(store / site), run.array(site))
        assert reader is not None
        d = run.dimensions
        tasks += [(reader, (layer, q, 0, 0)) for q in range(d.sequences) for layer in range(d.layers)]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(read, tasks):
            pass


_PROCESS = """
import json, sys, time
from pathlib import Path
import dask.array, dask.delayed, xarray
from bench import slices_pass as bench
if sys.argv[2] == "ours":
    from analyze.statistics import peak_kernel
def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))
imported = status("VmRSS")
store = Path(sys.argv[1])
task = bench._measured if sys.argv[2] == "ours" else getattr(bench, sys.argv[2])
seconds = []
for _ in range(2):
    started = time.perf_counter()
    task(store)
    seconds.append(time.perf_counter() - started)
peak = status("VmHWM")
print(json.dumps([[one, peak, peak - imported] for one in seconds]))
"""


def _process(store: Path, task: str) -> list[tuple[float, int, int]]:
    """(seconds, bytes at the peak, those above its imports) of two rounds in a process of its own."""
    found = subprocess.run([sys.executable, "-c", _PROCESS, store, task], capture_output=True, text=True, check=True)
    return [(seconds, peak, work) for seconds, peak, work in json.loads(found.stdout)]


def obvious(store: Path) -> list[Any]:
    """Hits by cell and feature, a pass for each threshold, as one would first write it with xarray and Dask."""
    import dask

    from schemas.dataset import open_run

    magnitudes = abs(open_run(store, chunks={})[list(SITES)])
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        return [
            (magnitudes >= float(magnitude)).sum(["sequence", "position"]).compute()
            for magnitude in MAGNITUDES[:OBVIOUS_THRESHOLDS]
        ]


def obvious_with_peaks(store: Path) -> list[Any]:
    """That, and the peaks along both axes, each in a pass."""
    import dask

    from schemas.dataset import open_run

    kept = obvious(store)
    magnitudes = abs(open_run(store, chunks={})[list(SITES)])
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        kept.append(magnitudes.max("position").compute())
        highest: Any = np.maximum
        kept.append(highest(*(magnitudes[site].max("layer") for site in SITES)).compute())
    return kept
