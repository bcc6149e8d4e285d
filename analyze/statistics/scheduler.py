"""Where tasks run: on threads of this process, or on the workers of a Dask cluster that is there already."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError, MissingDependencyError

__all__ = ["ENVIRONMENT", "Scheduler", "open_scheduler", "scheduler_address"]

ENVIRONMENT = "DASK_SCHEDULER_ADDRESS"
_PATIENCE_SECONDS = 10
_ADDRESS = re.compile(r"([a-z][a-z0-9+]*://)?(\[[^\s\[\]/]+\]|[^\s:\[\]/]+):([0-9]{1,5})(/\S*)?|inproc://\S+")


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


@contextlib.contextmanager
def open_scheduler(where: str | None, threads: int) -> Iterator[Scheduler]:
    """A cluster's scheduler at an address or named by a file, else that of ``DASK_SCHEDULER_ADDRESS``, else threads.

    Raises InputError where it cannot be reached or has no workers, MissingDependencyError without Dask's distributed.
    """
    told = "--scheduler"
    if where is None:
        told, where = ENVIRONMENT, os.environ.get(ENVIRONMENT) or None
    if where is None:
        yield Scheduler(threads)
        return
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
    try:
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_PATIENCE_SECONDS)
        held: dict[str, int] = client.nthreads()
        if not held:
            raise InputError(f"{told} {where} has no workers. Start some with: dask worker ADDRESS")
        yield Scheduler(sum(held.values()), client)
    finally:
        client.close()
