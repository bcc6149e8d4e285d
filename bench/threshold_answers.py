"""What an answer costs: peaks of Qwen3-30B's geometry, against the obvious program over the same peaks."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from analyze import answer, ask
from analyze.resources import Resources
from analyze.thresholds.asking import sweep as outliers_sweep
from bench.rounds import Comparison, compare
from bench.slices_store import SITES, generated_info
from schemas.bits import decode, encoding_named
from schemas.create import create_run
from schemas.layout import Dimensions, layer_peak_name, nonfinite_name, plan_arrays, position_peak_name
from schemas.run import Run
from schemas.run_writer import RunWriter

__all__ = ["run"]

DIMENSIONS = Dimensions(layers=48, sequences=16, positions=2048, features=2048)
SWEEP = "2:12:0.25"
ANEW = Resources(cache=False)


def run() -> Iterator[Comparison]:
    """A sweep against one threshold, and one threshold against the obvious program."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "peaks.zarr")
        _write_peaks(store)
        question, sweep = ask("6"), ask(SWEEP)
        yield compare(
            f"41 thresholds ({SWEEP}) from the peaks of 48 layers x 2 sites x 16 x 2048 x 2048, nothing kept",
            lambda: answer(store, sweep, resources=ANEW, features=False),
            "one threshold from the same peaks",
            lambda: answer(store, question, resources=ANEW),
        )
        yield compare(
            "one threshold from the same peaks",
            lambda: answer(store, question, resources=ANEW),
            "read, decode to float32, compare, reduce, once",
            lambda: _obvious(store, 6.0),
            rounds=3,
        )
        points = "1,001 thresholds (2:12:0.01) from the same peaks"
        outliers_sweep(store, SWEEP)
        for name, limit, task in (
            ("one threshold from the same peaks, nothing known", 3.0, lambda: answer(store, question, resources=ANEW)),
            (f"{points}, asked in a process that answered others", 0.2, lambda: outliers_sweep(store, "2:12:0.01")),
            (f"{points}, by the command, asked before", 2.5, lambda: _command(store, "2:12:0.01")),
            (f"{points}, by the command, nothing kept", 3.0, lambda: _command(store, "2:12:0.01", "--no-cache")),
        ):
            seconds = [_timed(task) for _ in range(5)]
            yield Comparison(name, f"{limit:g} s, its limit", seconds, [limit] * len(seconds), 1.0)


def _timed(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def _command(store: Path, magnitudes: str, *flags: str) -> None:
    command = [sys.executable, "-m", "analyze", "--store", str(store), "--magnitude", magnitudes, "--format", "csv"]
    subprocess.run([*command, *flags], check=True, capture_output=True)


def _write_peaks(path: Path) -> None:
    encoding = encoding_named("bfloat16")
    d = DIMENSIONS
    create_run(path, generated_info(d), plan_arrays(d, SITES, encoding, slices=False), {})
    writer = RunWriter(path)
    random = np.random.default_rng(0)
    gain = random.lognormal(0.0, 0.5, d.features)
    for sequence in range(d.sequences):
        for site in SITES:
            for name, rows in ((layer_peak_name(site), d.layers), (position_peak_name(site), d.positions)):
                values = (np.abs(random.standard_normal((rows, d.features), np.float32)) + 1) * gain
                bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
                writer.write(name, (slice(None), sequence) if rows == d.layers else (sequence,), bits)
        for site in SITES:
            writer.write(nonfinite_name(site), (slice(None), sequence), np.zeros(d.layers, np.uint64))
        writer.write("token_nll", (sequence,), np.ones(d.positions, np.float32))
    writer.commit(range(d.layers), range(d.sequences))


def _obvious(store: Path, magnitude: float) -> int:
    """The count of the default definition, as one would first write it."""
    held = Run(store)
    pairs = 0
    for sequence in range(DIMENSIONS.sequences):
        cells = [held.read(layer_peak_name(site), (slice(None), sequence)) for site in SITES]
        layers = np.concatenate([decode(c, held.encoding) >= magnitude for c in cells]).mean(axis=0)
        tokens = [decode(held.read(position_peak_name(site), (sequence,)), held.encoding) for site in SITES]
        positions = (np.maximum(*tokens) >= magnitude).mean(axis=0)
        pairs += int(((layers >= 0.25) & (positions >= 0.06)).sum())
    return pairs
