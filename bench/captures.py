"""What benchmarks of captures share: the plan that the command would make, stores to fill, and filling one."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from capture.coupling import coupling_of
from capture.engines.streamed import capture_streamed
from capture.experts import find_routing
from capture.model_facts import Skeleton
from capture.norms import with_norms
from capture.part import Part
from capture.plan import CapturePlan, make_plan
from capture.resume import LayerCheckpoints
from capture.sink import Sink
from capture.sites import find_sites
from capture.speed import slower_than_float32
from capture.weights.layer_weights import LayerWeights
from schemas.bits import encoding_named
from schemas.create import create_run
from schemas.retention import WHOLE, Retention
from schemas.run_writer import RunWriter
from tests.stores import run_info

__all__ = ["CPU", "Stores", "default_plan", "fill_streamed", "quick_dtype"]

CPU = torch.device("cpu")


def quick_dtype() -> str:
    """bfloat16, or float32 on a CPU that computes in bfloat16 much slower, where nothing but the model would show."""
    return "bfloat16" if slower_than_float32(CPU, torch.bfloat16) is None else "float32"


def default_plan(
    skeleton: Skeleton, sequences: int, length: int, retention: Retention = WHOLE, device: torch.device = CPU
) -> CapturePlan:
    """What ``capture`` does with the model of ``skeleton`` in its dtype, where no other flag is given."""
    return make_plan(
        skeleton.facts,
        with_norms(skeleton.model, find_sites(skeleton.model)),
        encoding_named(str(skeleton.dtype).removeprefix("torch.")),
        part=Part(0, sequences, sequences),
        length=length,
        batch_size=1,
        coupling=coupling_of(skeleton.model, length),
        routing=find_routing(skeleton.model) if skeleton.facts.experts else None,
        retention=retention,
        accelerated=device.type != "cpu",
    )


class Stores:
    """Empty stores for one plan and its token ids (sequence, position), one at a time, in a folder of their own."""

    def __init__(self, folder: Path, plan: CapturePlan, token_id: npt.NDArray[Any]) -> None:
        """Nothing is made until ``renew``."""
        self._folder, self._plan, self._token_id = folder, plan, token_id
        self._numbers = itertools.count()
        self.path = Path()

    def renew(self) -> None:
        """Make ``path`` an empty store; the one before is gone, and nothing waits to be brought to the disk."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.path = self._folder / f"{next(self._numbers)}.zarr"
        plan = self._plan
        info = run_info(plan.dimensions, plan.stored_sites, plan.encoding.name)
        create_run(self.path, info, plan.arrays, {"token_id": self._token_id})
        os.sync()


def fill_streamed(
    store: Path,
    plan: CapturePlan,
    checkpoint: Path,
    skeleton: Skeleton,
    token_id: npt.NDArray[Any],
    device: torch.device = CPU,
) -> None:
    """Fill the empty ``store`` by the streamed engine; ``skeleton`` serves once."""
    weights, writer = LayerWeights(checkpoint, skeleton, device), RunWriter(store)
    checkpoints = LayerCheckpoints(writer)
    with Sink(writer, plan) as sink:
        capture_streamed(weights, plan, token_id, range(len(token_id)), sink, checkpoints, skeleton.dtype, device)
    checkpoints.remove()
