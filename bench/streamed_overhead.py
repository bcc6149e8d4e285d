"""What running one layer at a time costs where the model would fit in memory: SmolLM2-135M, weights read included."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.captures import Stores, default_plan, fill_streamed, quick_dtype
from bench.rounds import Comparison, compare
from bench.small_model import SmallModel
from capture.model_facts import build_skeleton

__all__ = ["run"]

SEQUENCES = 2
LENGTH = 2048
ROUNDS = 4


def run() -> Iterator[Comparison]:
    """One comparison."""
    dtype = quick_dtype()
    small = SmallModel(SEQUENCES, LENGTH, dtype)
    plan = default_plan(small.skeleton, SEQUENCES, LENGTH)
    skeleton = small.skeleton
    with tempfile.TemporaryDirectory(prefix="streamed-overhead-") as folder:
        stores = Stores(Path(folder, "stores"), plan, small.token_id)

        def prepare() -> None:
            nonlocal skeleton
            stores.renew()
            skeleton = build_skeleton(small.folder, dtype)

        def resident() -> None:
            small.load()
            small.fill(stores.path, plan)

        yield compare(
            f"streamed capture of {small.name}, {SEQUENCES} x {LENGTH} tokens, weights read, synced to disk",
            lambda: fill_streamed(stores.path, plan, small.folder, skeleton, small.token_id),
            "resident capture of the same, weights read",
            resident,
            rounds=ROUNDS,
            bar=1.25,
            prepare=prepare,
        )
