"""Where tasks run: on threads of this process, or on the workers of a Dask cluster that is there already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["ENVIRONMENT", "Scheduler", "open_scheduler"]

ENVIRONMENT = "DASK_SCHEDULER_ADDRESS"


@dataclass(frozen=True)
class Scheduler:
    """``workers``: how many tasks run at once. ``client`` is that of a cluster, or None for threads."""

    workers: int
    client: Any = None

    def persist(self, nodes: list[Any]) -> list[Any]:
        """The Dask ``nodes`` with their values held: here, or by the cluster, which may still be computing them."""
        from dask.base import persist

        if self.client is None:
            return list(persist(*nodes, **self._threads))  # type: ignore[no-untyped-call]
        from analyze.statistics.cluster import told_by_cluster

        with told_by_cluster():
            return list(persist(*nodes, scheduler=self.client))  # type: ignore[no-untyped-call]

    def values(self, nodes: list[Any]) -> list[Any]:
        """What the Dask ``nodes`` come to."""
        from dask.base import compute

        if self.client is None:
            return list(compute(*nodes, **self._threads))  # type: ignore[no-untyped-call]
        from analyze.statistics.cluster import told_by_cluster, values_of

        with told_by_cluster():
            return values_of(self.client, nodes)

    @property
    def _threads(self) -> dict[str, Any]:
        return {"scheduler": "threads", "num_workers": self.workers}


@contextlib.contextmanager
def open_scheduler(where: str | None, threads: int) -> Iterator[Scheduler]:
    """A cluster's scheduler at an address or named by a file, else that of ``DASK_SCHEDULER_ADDRESS``, else threads.

    Raises what ``analyze.statistics.cluster.open_client`` does.
    """
    told = "--scheduler"
    if where is None:
        told, where = ENVIRONMENT, os.environ.get(ENVIRONMENT) or None
    if where is None:
        yield Scheduler(threads)
        return
    from analyze.statistics.cluster import open_client

    with open_client(where, told) as client:
        yield Scheduler(sum(client.nthreads().values()), client)
