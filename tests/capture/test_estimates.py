"""Estimates against what captures come to: bytes of stores, by architecture and encoding; memory, by engine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from capture.estimates import store_bytes as estimated_bytes
from schemas import ENCODINGS, Run
from schemas.layout import plan_arrays
from schemas.run import store_bytes
from tests.capture.captures import capture
from tests.checkpoints import ARCHITECTURES

WITHIN = 0.15
MEMORY_WITHIN = 0.2

PEAK = """
import re, sys
from pathlib import Path
from capture.cli import main

status = main(sys.argv[1:])
print("peak", re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


def planned(run: Run) -> int:
    """What is estimated for a store of such arrays as ``run`` has."""
    sites = {name: site.norm for name, site in run.info.sites.items() if site.alias is None and site.norm is not None}
    names = [name for name, site in run.info.sites.items() if site.alias is None]
    dimensions = replace(
        run.dimensions,
        ranks=run.array("expert_id").shape[-1] if "expert_id" in run else 0,
        experts=run.array("expert_peak").shape[-1] if "expert_peak" in run else 0,
    )
    arrays = plan_arrays(dimensions, names, ENCODINGS[run.info.bits], norms=sites)
    return estimated_bytes(arrays)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bytes_of_a_store(name: str, captured: Callable[..., Run]) -> None:
    run = captured(name)
    assert planned(run) == pytest.approx(store_bytes(run.path), rel=WITHIN)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_bytes_of_a_store_in_other_dtypes(name: str, dtype: str, captured: Callable[..., Run]) -> None:
    run = captured(name, dtype=dtype)
    assert planned(run) == pytest.approx(store_bytes(run.path), rel=WITHIN)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is Linux's to tell")
@pytest.mark.parametrize(
    ("name", "engine"),
    [("llama", "resident"), ("olmoe", "streamed"), ("gemma3n", "lockstep")],
)
def test_memory_at_its_peak(
    name: str,
    engine: str,
    checkpoint: Callable[[str], Path],
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a process of its own: nearly all of it is there before a tiny model is."""
    folder, store = checkpoint(name), tmp_path / "run.zarr"
    options = ["--engine", engine, "--sequences", "3", "--length", "64"]
    assert capture(folder, store, text, *options, "--dry-run") == 0
    told = re.search(r"^memory +about ([0-9.]+) MB", capsys.readouterr().out, re.MULTILINE)
    assert told is not None
    words = ["--model", str(folder), "--store", str(store), "--text", str(text), "--device", "cpu", "-q", *options]
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", PEAK, *words], cwd=root, check=True, capture_output=True, text=True)
    measured = 1024 * int(ran.stdout.rpartition("peak")[2])
    assert float(told[1]) * 1e6 == pytest.approx(measured, rel=MEMORY_WITHIN)
