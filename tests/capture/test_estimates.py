"""Estimates against what captures come to: bytes of stores, by architecture and encoding; memory, by engine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capture.estimates import QUEUE_BYTES, Workload, memory
from capture.estimates import store_bytes as estimated_bytes
from capture.heap import SMALL_BYTES
from schemas import ENCODINGS, Run
from schemas.layout import Dimensions, plan_arrays
from schemas.run import store_bytes
from tests.capture.captures import capture
from tests.capture.made_up import FACTS
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


DENSE = replace(FACTS, experts=None, top_k=None, expert_features=0, layers=8, hidden_size=512, widest_features=3 * 1536)


def load(batch_size: int, engine: str = "resident", **other: Any) -> Workload:
    """What a dense model of 8 layers does with two batches of 1,024 positions, in float32."""
    sequences = 2 * batch_size
    dimensions = Dimensions(DENSE.layers, sequences, 1024, DENSE.hidden_size)
    return Workload(DENSE, engine, dimensions, ENCODINGS["float32"], batch_size, sequences, 2, **other)


def test_what_a_batch_takes_goes_with_its_size() -> None:
    """Measured: 1.91, 2.69 and 3.90 GB before large blocks were given back, 0.92 GB for the first since."""
    hidden = 8 * 1024 * 512 * 4
    assert hidden >= SMALL_BYTES
    work = [memory(load(size, slices=False, beside=False)).work for size in (8, 16, 32)]
    assert work[1] - work[0] == (work[2] - work[1]) // 2
    # Layer: 5 hidden states and 3 activations of 3 times their width; scratch, position peaks and copies of those.
    assert work[1] - work[0] == (5 + 3 * 3 + 1 + 2 + 2) * hidden


def test_small_blocks_keep_more_of_the_heap_than_large_ones() -> None:
    small, *large = (memory(load(size, slices=False)).work for size in (5, 8, 16))
    each = 5 * 1024 * 512 * 4
    assert each < SMALL_BYTES <= 3 * each
    each_sequence = (large[1] - large[0]) // 8
    assert small - (large[0] - 3 * each_sequence) == 16 * each  # twice a layer


@pytest.mark.parametrize("beside", [True, False])
def test_a_draft_waits_whatever_its_size(beside: bool) -> None:
    """Those of small batches as many as fit into half of the queue; of larger ones, at least one."""
    for size, least in ((2, 12), (32, 3 * 64)):
        streamed, lockstep = (memory(load(size, engine, beside=beside)).work for engine in ("streamed", "lockstep"))
        assert streamed - lockstep == least * 2**20
    many = replace(load(2, "streamed", beside=beside), sequences=1000)
    assert memory(many).work - memory(replace(many, engine="lockstep")).work == QUEUE_BYTES // 2
    streamed, lockstep = (memory(load(32, engine, accelerated=True)).host for engine in ("streamed", "lockstep"))
    assert streamed - lockstep == least * 2**20


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
