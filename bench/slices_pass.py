"""What a pass over the slices costs, against decoding them."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from bench.obvious_program import MAGNITUDES
from bench.rounds import Comparison, compare
from bench.slices_store import SITES, write_slices
from schemas.chunk_reading import ChunkReader
from schemas.layout import Dimensions
from schemas.run import Run

__all__ = ["run"]

QWEN3_30B = Dimensions(layers=48, sequences=4, positions=2048, features=2048)
"""Of its 16 sequences four, 3.2 GB: the pass does the same for each."""
SMOLLM2 = Dimensions(layers=30, sequences=16, positions=2048, features=576)
THREADS = 2


def run() -> Iterator[Comparison]:
    """The pass against raw decoding, of two geometries."""
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
            shutil.rmtree(store)


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
