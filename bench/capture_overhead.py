"""What capturing costs: SmolLM2-135M on real text, against the same forward and loss without hooks or a store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.captures import Stores, default_plan
from bench.rounds import Comparison, compare
from bench.small_model import SmallModel
from schemas.retention import WHOLE, Retention

__all__ = ["run"]

SEQUENCES = 6
LENGTH = 2048
ROUNDS = 5


def run() -> Iterator[Comparison]:
    """Slices and peaks, then peaks alone."""
    small = SmallModel(SEQUENCES, LENGTH)
    yield _overhead(small, WHOLE, "slices and peaks", bar=1.05)
    yield _overhead(small, Retention(slices=False), "peaks alone", bar=1.03)


def _overhead(small: SmallModel, retention: Retention, what: str, bar: float) -> Comparison:
    plan = default_plan(small.skeleton, SEQUENCES, LENGTH, retention)
    with tempfile.TemporaryDirectory(prefix="capture-overhead-") as folder:
        stores = Stores(Path(folder, "stores"), plan, small.token_id)
        return compare(
            f"resident capture of SmolLM2-135M, {SEQUENCES} x {LENGTH} tokens, {what}, synced to disk",
            lambda: small.fill(stores.path, plan),
            "the same forward and loss, nothing kept",
            lambda: small.forward(plan),
            rounds=ROUNDS,
            bar=bar,
            prepare=stores.renew,
        )
