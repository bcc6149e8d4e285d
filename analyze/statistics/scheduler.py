"""Where tasks run: on threads of this process, or on the workers of a Dask cluster that is there already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schemas.errors import InputError, MissingDependencyError

__all__ = ["ENVIRONMENT", "Scheduler", "names_file", "open_scheduler"]

ENVIRONMENT = "DASK_SCHEDULER_ADDRESS"
_PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Scheduler:
    """``workers``: how many tasks run at once. ``client`` is that of a cluster, or None for threads."""

    workers: int
    client: Any = None

    def persist(self, nodes: list[Any]) -> list[Any]:
        """The Dask ``nodes`` with their values held: here, or by the cluster, which may still be computing them."""
        from dask.base import persist

        return list(persist(*nodes, **self._options()))  # type: ignore[no-untyped-call]

    def values(self, nodes: list[Any]) -> list[Any]:
        """What the Dask ``nodes`` come to."""
        from dask.base import compute

        return list(compute(*nodes, **self._options()))  # type: ignore[no-untyped-call]

    def _options(self) -> dict[str, Any]:
        if self.client is not None:
            return {"scheduler": self.client}
        return {"scheduler": "threads", "num_workers": self.workers}


def names_file(where: str, told: str = "--scheduler") -> bool:
    """Whether a scheduler is named by a file rather than its address; raises InputError where there is no such file."""
    is_file = (os.path.sep in where and "://" not in where) or where.endswith(".json")
    if is_file and not os.path.isfile(where):
        raise InputError(f"{told} {where}: there is no such file. dask scheduler --scheduler-file {where} writes it")
    return is_file


@contextlib.contextmanager
def open_scheduler(where: str | None, threads: int) -> Iterator[Scheduler]:
    """A cluster's scheduler at an address or named by a file, else that of ``DASK_SCHEDULER_ADDRESS``, else threads.

    Raises InputError where it cannot be reached or has no workers, MissingDependencyError without Dask's distributed.
    """
    told, where = ("--scheduler", where) if where else (ENVIRONMENT, os.environ.get(ENVIRONMENT))
    if not where:
        yield Scheduler(threads)
        return
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependencyError(
            f"{told} {where} needs Dask's distributed; install it with: pip install 'outlier-features[cluster]'"
        ) from None
    is_file = names_file(where, told)
    try:
        client: Any = Client(  # type: ignore[no-untyped-call]
            **({"scheduler_file": where} if is_file else {"address": where}),
            timeout=_PATIENCE_SECONDS,
            set_as_default=False,
        )
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{told} {where} cannot be reached ({reason}). Start one with: dask scheduler, and workers with: "
            "dask worker ADDRESS; or leave it out to use this machine's threads"
        ) from None
    try:
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_PATIENCE_SECONDS)
        held: dict[str, int] = client.nthreads()
        if not held:
            raise InputError(f"{told} {where} has no workers. Start some with: dask worker ADDRESS")
        yield Scheduler(sum(held.values()), client)
    finally:
        client.close()
