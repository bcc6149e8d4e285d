"""Weights that are still to come from the Hub, and the room that they take: in its cache, or passing by the store."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from capture.plan import CapturePlan, human_bytes
from capture.snapshot import Snapshot
from capture.weights.passing_shards import passing_bytes

__all__ = ["Download", "find_download"]


@dataclass(frozen=True)
class Download:
    """``missing_bytes`` of weights are to come, of which ``disk_bytes`` lie in ``folder`` at once."""

    missing_bytes: int
    disk_bytes: int
    folder: Path
    evict: bool
    free_bytes: int
    beside_store: bool
    """Whether the folder is on the store's disk."""

    def __str__(self) -> str:
        """For ``--dry-run``."""
        if not self.missing_bytes:
            return "nothing: all weights are here"
        at_once = f", about {human_bytes(self.disk_bytes)} of it at once" if self.evict else ""
        return f"{human_bytes(self.missing_bytes)}{at_once}, into {self.folder} ({human_bytes(self.free_bytes)} free)"

    def shortfall(self, store_bytes: int) -> str | None:
        """Why it does not fit, beside a store of that size where both are on one disk; None where it does."""
        both = self.beside_store and self.disk_bytes > 0
        need = self.disk_bytes + (store_bytes if both else 0)
        if need <= self.free_bytes:
            return None
        what = "shards that pass by" if self.evict else "weights to be downloaded"
        total = f" and the store {human_bytes(store_bytes)}" if both else ""
        fix = "use --evict, which keeps few of them at a time, or set HF_HOME to a folder"
        return (
            f"the {what} take about {human_bytes(self.disk_bytes)}{total} of disk, and {human_bytes(self.free_bytes)} "
            f"is free in {self.folder}: {'give a --store' if self.evict else fix} on a larger disk"
        )


def find_download(
    snapshot: Snapshot, store: Path, store_free_bytes: int, plan: CapturePlan, *, evict: bool
) -> Download | None:
    """What is to come for ``plan``; None for a local checkpoint. With ``evict`` it passes through ``store``."""
    if snapshot.revision is None:
        return None
    sizes = list(snapshot.missing.values())
    if evict:
        disk_bytes = passing_bytes(sizes, plan.facts.largest_layer_bytes)
        return Download(sum(sizes), disk_bytes, store, True, store_free_bytes, beside_store=True)
    cache = snapshot.folder
    nearest = next(path for path in (store.absolute(), *store.absolute().parents) if path.is_dir())
    beside = os.stat(cache).st_dev == os.stat(nearest).st_dev
    return Download(sum(sizes), sum(sizes), cache, False, shutil.disk_usage(cache).free, beside)
