"""What tests of the sink share: patterns of every kind, a small empty store, and a sink that writes to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch

from capture.plan import CapturePlan
from capture.sink import Sink
from capture.sites import Site
from schemas import ENCODINGS
from schemas.create import create_run
from schemas.layout import Dimensions, plan_arrays
from schemas.run_writer import RunWriter
from tests.capture.made_up import FACTS
from tests.stores import run_info

__all__ = [
    "DEADLINE_SECONDS",
    "NUMPY",
    "SHAPE",
    "SITES",
    "SLICE_BYTES",
    "as_tensor",
    "empty_store",
    "feed",
    "sink_of",
    "zoo",
]


Array = np.ndarray[Any, Any]

TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NUMPY = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
SITES = ("ln_attn", "ln_mlp")
SHAPE = Dimensions(layers=3, sequences=5, positions=6, features=7)
SLICE_BYTES = SHAPE.positions * SHAPE.features * 2
PLENTY = 2**30
DEADLINE_SECONDS = 30


def empty_store(folder: Path, bits: str) -> Path:
    """A store of SHAPE in ``folder``."""
    create_run(folder / "run.zarr", run_info(SHAPE, SITES, bits), plan_arrays(SHAPE, SITES, ENCODINGS[bits]), {})
    return folder / "run.zarr"


def zoo(bits: str, seed: int = 0) -> Array:
    """Random patterns (site, layer, sequence, position, feature): NaNs of both signs, infinities, zeros, subnormals;
    sequence 0 has small numbers alone, and feature 2 of sequence 1 nothing but NaN."""
    encoding = ENCODINGS[bits]
    generator = np.random.default_rng(seed)
    shape = (len(SITES), SHAPE.layers, SHAPE.sequences, SHAPE.positions, SHAPE.features)
    patterns = generator.integers(0, 2 ** (8 * encoding.itemsize), shape, np.uint64).astype(encoding.unsigned)
    special = [0, encoding.sign_mask, 1, encoding.infinity, encoding.infinity | encoding.sign_mask, encoding.nan]
    special += [encoding.nan | encoding.sign_mask, encoding.infinity | 1, encoding.infinity - 1]
    patterns[:, :, 2].reshape(-1)[: len(special)] = np.array(special, encoding.unsigned)
    patterns[:, :, 3] = generator.choice(np.array(special, encoding.unsigned), patterns[:, :, 3].shape)
    patterns[:, :, 0] &= encoding.unsigned.type(encoding.sign_mask | (encoding.infinity >> 1))
    patterns[:, :, 1, :, 2] = encoding.nan | encoding.sign_mask
    return patterns


def as_tensor(patterns: Array, bits: str) -> torch.Tensor:
    signed = patterns.view(np.dtype(f"i{patterns.itemsize}")).copy()
    return torch.from_numpy(signed).view(TORCH[bits])


def feed(sink: Sink, patterns: Array, bits: str, batch: range, wanted: Sequence[int]) -> None:
    """One batch, its cells in the order of a forward, its losses the number of the sequence."""
    sink.begin(batch, wanted)
    for layer in range(SHAPE.layers):
        for index, site in enumerate(SITES):
            sink.cell(site, layer, as_tensor(patterns[index, layer, batch.start : batch.stop], bits))
    sink.finish(torch.tensor([[float(sequence)] * SHAPE.positions for sequence in batch]))


def sink_of(
    writer: RunWriter, bits: str = "bfloat16", queue_bytes: int = PLENTY, beside: bool = True, **options: Any
) -> Sink:
    sites = tuple(Site(site, ()) for site in SITES)
    encoding = ENCODINGS[bits]
    plan = CapturePlan(FACTS, sites, SHAPE, encoding, 1, plan_arrays(SHAPE, SITES, encoding))
    return Sink(writer, plan, queue_bytes=queue_bytes, beside=beside, **options)


class SlowWriter(RunWriter):
    """A writer that writes slices only while ``may_write`` is set."""

    may_write = threading.Event()

    def write(self, name: str, index: Any, values: Any) -> None:
        if name in SITES:
            assert self.may_write.wait(DEADLINE_SECONDS)
        super().write(name, index, values)
