"""What capturing costs: SmolLM2-135M on real text, against the same forward and loss without hooks or a store.

A capture keeps freed memory for what comes next (``capture.heap``), which a forward by itself does not. What hooks and
writing cost beyond that is a row of its own.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.captures import Stores, default_plan
from bench.rounds import Comparison, compare
from bench.small_model import SmallModel
from capture.heap import keep_any_block, keep_small_blocks
from schemas.retention import WHOLE, Retention

__all__ = ["run"]

SEQUENCES = 4
LENGTH = 2048
ROUNDS = 4


def run() -> Iterator[Comparison]:
    """Slices and peaks, then peaks alone, against a forward as it is; then slices and peaks against one whose memory
    is kept as a capture's is."""
    small = SmallModel(SEQUENCES, LENGTH)
    yield _overhead(small, WHOLE, "slices and peaks", bar=1.05)
    yield _overhead(small, Retention(slices=False), "peaks alone", bar=1.03)
    yield _overhead(small, WHOLE, "slices and peaks", bar=None, kept=True)


def _overhead(
    small: SmallModel, retention: Retention, what: str, bar: float | None, *, kept: bool = False
) -> Comparison:
    plan = default_plan(small.skeleton, SEQUENCES, LENGTH, retention)

    def forward() -> None:
        with contextlib.ExitStack() as stack:
            if kept:
                stack.enter_context(keep_small_blocks())
                stack.enter_context(keep_any_block())
            small.forward(plan)

    with tempfile.TemporaryDirectory(prefix="capture-overhead-") as folder:
        stores = Stores(Path(folder, "stores"), plan, small.token_id)
        return compare(
            f"resident capture of {small.name}, {SEQUENCES} x {LENGTH} tokens, {what}, synced to disk",
            lambda: small.fill(stores.path, plan),
            "the same forward and loss, nothing kept" + (", in memory that is kept as a capture's is" if kept else ""),
            forward,
            rounds=ROUNDS,
            bar=bar,
            prepare=stores.renew,
        )
