"""The report of seven full-size models: bytes of the page, and how long the command takes from peaks alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peaks_store import GEOMETRIES, write_peaks
from bench.rounds import Comparison
from schemas.layout import Dimensions

__all__ = ["run"]

SEQUENCES, POSITIONS = 16, 2048
SWEEP = "2:12:0.25"
MOST_MB, MOST_SECONDS = 8.0, 60.0


def run() -> Iterator[Comparison]:
    """Bytes and seconds, each against its limit; takes 2 GB in the folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="report-page-") as folder:
        for seed, (name, (layers, features, outliers)) in enumerate(GEOMETRIES.items()):
            shape = Dimensions(layers, SEQUENCES, POSITIONS, features)
            write_peaks(Path(folder, f"{name}.zarr"), name, shape, outliers / (SEQUENCES * features), seed)
        page = Path(folder, "report.html")
        stores = sorted(map(str, Path(folder).glob("*.zarr")))
        command = [sys.executable, "-m", "analyze", "--store", *stores, "--magnitude", SWEEP, "--report", str(page)]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        what = f"--report of {len(stores)} stores of the published geometries, {SEQUENCES} x {POSITIONS}, {SWEEP}"
        yield Comparison(f"page of {what}", "8 MB, its limit", [page.stat().st_size / 1e6], [MOST_MB], 1.0, unit="MB")
        yield Comparison(f"{what}, nothing known", "a minute", [seconds], [MOST_SECONDS], 1.0)
