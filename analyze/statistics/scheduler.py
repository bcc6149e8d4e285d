"""Where tasks run: on threads of this process, or on the workers of a Dask cluster that is there already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

__all__ = ["ENVIRONMENT", "Scheduler", "Threads", "open_scheduler"]

ENVIRONMENT = "DASK_SCHEDULER_ADDRESS"


class Scheduler(Protocol):
    """What a pass asks for values: ``Threads`` or ``analyze.statistics.cluster.Cluster``."""

    in_this_process: ClassVar[bool]

    @property
    def workers(self) -> int:
        """How many tasks run at once."""

    def persist(self, nodes: list[Any]) -> list[Any]:
        """The Dask ``nodes`` with their values held where they are computed, which may still be going on."""

    def values(self, nodes: list[Any]) -> list[Any]:
        """What the Dask ``nodes`` come to."""


@dataclass(frozen=True)
class Threads:
    """So many threads of this process."""

    workers: int
    in_this_process: ClassVar[bool] = True

    def persist(self, nodes: list[Any]) -> list[Any]:
        """As ``Scheduler``'s."""
        from dask.base import persist

        return list(persist(*nodes, scheduler="threads", num_workers=self.workers))  # type: ignore[no-untyped-call]

    def values(self, nodes: list[Any]) -> list[Any]:
        """As ``Scheduler``'s."""
        from dask.base import compute

        return list(compute(*nodes, scheduler="threads", num_workers=self.workers))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def open_scheduler(where: str | None, threads: int) -> Iterator[Scheduler]:
    """A cluster's scheduler at an address or named by a file, else that of ``DASK_SCHEDULER_ADDRESS``, else threads.

    Raises what ``analyze.statistics.cluster.open_cluster`` does.
    """
    told = "--scheduler"
    if where is None:
        told, where = ENVIRONMENT, os.environ.get(ENVIRONMENT) or None
    if where is None:
        yield Threads(threads)
        return
    from analyze.statistics.cluster import open_cluster

    with open_cluster(where, told) as cluster:
        yield cluster
