"""A Dask cluster as a pass meets it: found by its scheduler's address, asked what its workers run, and watched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from analyze.statistics.source_digest import source_digest
from schemas.errors import InputError, MissingDependencyError, OutlierFeaturesError

__all__ = ["Cluster", "ClusterError", "open_cluster", "scheduler_address"]

_PATIENCE_SECONDS = 10
_GLANCE_SECONDS = 2
_ADDRESS = re.compile(r"([a-z][a-z0-9+]*://)?(\[[^\s\[\]/]+\]|[^\s:\[\]/]+):([0-9]{1,5})(/\S*)?|inproc://\S+")
_CODE = "__import__('analyze.statistics.source_digest', fromlist=['source_digest']).source_digest()"
"""For a worker to evaluate. A function of ours would end a worker that cannot import it."""


class ClusterError(OutlierFeaturesError, RuntimeError):
    """A cluster that failed during a pass: its scheduler or its workers have gone, or a worker was killed again and
    again."""


@dataclass(frozen=True)
class Cluster:
    """The workers of a Dask cluster, by its ``client``."""

    client: Any
    in_this_process: ClassVar[bool] = False

    @property
    def workers(self) -> int:
        """How many tasks run at once."""
        return sum(self.client.nthreads().values())

    def persist(self, nodes: list[Any]) -> list[Any]:
        """The Dask ``nodes`` with their values held by the cluster, which may still be computing them.

        Raises ClusterError where the cluster has gone.
        """
        from dask.base import persist

        with _told_by_cluster():
            return list(persist(*nodes, scheduler=self.client))  # type: ignore[no-untyped-call]

    def values(self, nodes: list[Any]) -> list[Any]:
        """What the Dask ``nodes`` come to; raises ClusterError where no worker has been left for a while, too."""
        from distributed import wait

        with _told_by_cluster():
            futures = self.client.compute(list(nodes))
            gone = 0.0
            while waiting := [future for future in futures if not future.done()]:
                if any(future.status == "error" for future in futures):
                    break  # which ``gather`` raises
                with contextlib.suppress(TimeoutError), self.client.as_current():
                    wait(waiting, timeout=_GLANCE_SECONDS, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
                if self.client.nthreads():
                    gone = 0.0
                elif not gone:
                    gone = time.monotonic()
                elif time.monotonic() - gone > _PATIENCE_SECONDS:
                    raise ClusterError(
                        "the cluster has no workers left: see their logs, start some with: dask worker ADDRESS, and "
                        "run the same command again; or leave out --scheduler"
                    )
            return list(self.client.gather(futures))


def scheduler_address(where: str, told: str = "--scheduler") -> str:
    """The address that ``where`` is or, as a scheduler's file, holds; nobody is asked whether anything is there.

    Raises InputError where there is no such file, or that or ``where`` itself is no address.

    >>> scheduler_address("tcp://host:8786")
    'tcp://host:8786'
    """
    address: Any = where
    if (os.path.sep in where and "://" not in where) or where.endswith(".json"):
        writes = f"dask scheduler --scheduler-file {where} writes it"
        if not os.path.isfile(where):
            raise InputError(f"{told} {where}: there is no such file. {writes}")
        try:
            address = json.loads(Path(where).read_text())["address"]
        except (OSError, ValueError, LookupError, TypeError):
            raise InputError(f"{told} {where} is no scheduler's file: it holds no address. {writes}") from None
    form = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if form is None or int(form[3] or 1) not in range(1, 2**16):
        inside = "" if address == where else f" holds {address!r}, which"
        raise InputError(
            f"{told} {where or repr(where)}{inside} is no address of a scheduler: write it as tcp://HOST:PORT, or name "
            "the file that dask scheduler --scheduler-file FILE writes"
        )
    return str(address)


def _require_scheduler(address: str) -> None:
    """Raise unless a Dask scheduler answers at ``address``: OSError, or whatever distributed makes of what is there.

    Its client waits without end for what takes a connection and does not speak as Dask does, as dashboards do not.
    """
    from distributed.comm.core import connect
    from distributed.security import Security

    async def identity() -> Any:
        given = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
        comm = await connect(address, timeout=_PATIENCE_SECONDS, **given)  # type: ignore[no-untyped-call]
        try:
            await comm.write({"op": "identity", "reply": True})
            return await comm.read()
        finally:
            comm.abort()

    async def in_time() -> Any:
        try:
            return await asyncio.wait_for(identity(), 2 * _PATIENCE_SECONDS)
        except TimeoutError:
            raise OSError("what takes the connection is no Dask scheduler; a dashboard has another port") from None

    with ThreadPoolExecutor(1, thread_name_prefix="scheduler") as apart:  # a notebook's thread has a loop that runs
        found = apart.submit(asyncio.run, in_time()).result()
    kind = found.get("type") if isinstance(found, dict) else None
    if kind in ("Worker", "Nanny"):
        raise OSError(f"that is a {kind.lower()}'s address, not its scheduler's")


def _require_same_code(client: Any, told: str) -> None:
    """Raise InputError for a worker that has not the code that numbers are asked of here, and kept under."""
    own = source_digest()
    with _told_by_cluster():
        answers = client.run(eval, _CODE, on_error="return")
    for worker, found in answers.items():
        if isinstance(found, ImportError):
            raise InputError(
                f"{told}: its worker {worker} cannot import outlier-features ({found}): install this version where "
                "workers run; or leave out --scheduler"
            )
        if not isinstance(found, BaseException) and None not in (own, found) and found != own:
            raise InputError(
                f"{told}: its worker {worker} has another outlier-features or NumPy than this process, and may come to "
                "other numbers: install the same where workers run, and start them again; or leave out --scheduler"
            )


@contextlib.contextmanager
def open_cluster(where: str, told: str) -> Iterator[Cluster]:
    """The cluster at ``where``, which the flag or variable ``told`` has, with workers that run this code.

    Raises InputError where it cannot be reached, has no workers or such that run another, MissingDependencyError
    without Dask's distributed.
    """
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise MissingDependencyError(
            f"{told} {where} needs Dask's distributed; install it with: pip install 'outlier-features[cluster]'"
        ) from None
    address = scheduler_address(where, told)
    try:
        if not dask.config.get("distributed.client.security-loader", None):  # which gives the client alone credentials
            _require_scheduler(address)
        client: Any = Client(address, timeout=_PATIENCE_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # distributed raises what a malformed answer leads to, too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{told} {where} cannot be reached ({reason}). Start one with: dask scheduler, and workers with: "
            "dask worker ADDRESS; or leave it out to use this machine's threads"
        ) from None
    with _quiet(), contextlib.closing(client):
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_PATIENCE_SECONDS)
        if not client.nthreads():
            raise InputError(f"{told} {where} has no workers. Start some with: dask worker ADDRESS")
        _require_same_code(client, f"{told} {where}")
        yield Cluster(client)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """distributed's client logs a traceback where its scheduler goes, which is told as an error."""
    logger = logging.getLogger("distributed.client")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _told_by_cluster() -> Iterator[None]:
    """ClusterError for what distributed raises when a scheduler or its workers go."""
    from distributed import KilledWorker

    try:
        yield
    except (CancelledError, KilledWorker, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ClusterError(
            f"the cluster failed during the pass ({reason}): see the logs of its scheduler and workers, and run the "
            "same command again; or leave out --scheduler"
        ) from None
