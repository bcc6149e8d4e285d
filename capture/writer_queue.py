"""Threads that write, and what waits for them: bounded in bytes, done beside the model or only while it waits.

What does little but wait for the disk has threads of its own, and is done beside the model wherever that is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from schemas.durable import FLUSHED_AT_ONCE

__all__ = ["WriterQueue"]

_Task = tuple[Future[None], Callable[[], None], int]
"""What is told of it, what it does, and the bytes that it holds until then."""


class WriterQueue:
    """A pool of writer threads whose waiting work is bounded in bytes; the first failure is raised to the feeder.

    Threads work *beside* the feeder, or only while it waits in ``settle``. One thread feeds.
    """

    def __init__(self, threads: int, limit_bytes: int, *, beside: bool) -> None:
        """No more than ``limit_bytes`` wait, but for a single task that holds more."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="writer")
        self._disk = ThreadPoolExecutor(FLUSHED_AT_ONCE, thread_name_prefix="disk")
        self._limit = limit_bytes
        self._beside = beside
        self._held: list[_Task] = []
        self._waiting = 0
        self._room = threading.Condition()
        self.error: BaseException | None = None
        """What the first task that failed raised."""

    def has_room(self, size: int) -> bool:
        """Whether ``size`` more bytes may wait."""
        return self._waiting == 0 or self._waiting + size <= self._limit

    def reserve(self, size: int) -> None:
        """Have ``size`` bytes wait that a task to come will hold; blocks until there is room.

        Raises what an earlier task raised.
        """
        with self._room:
            self._room.wait_for(lambda: self.has_room(size))
            if self.error is not None:
                raise self.error
            self._waiting += size

    def put(self, task: Callable[[], None], size: int) -> Future[None]:
        """Queue ``task``, which holds ``size`` bytes that were reserved."""
        if self._beside:
            return self._pool.submit(self._run, task, size)
        future: Future[None] = Future()
        self._held.append((future, task, size))
        return future

    def put_waiting(self, task: Callable[[], None], size: int) -> Future[None]:
        """``put`` a task that does little but wait for the disk, or for tasks that were put before it."""
        return self._disk.submit(self._run, task, size)

    def settle(self) -> None:
        """Return when no task is held until the feeder waits; raises what a task raised."""
        held, self._held = self._held, []
        wait([self._pool.submit(self._run_held, *each) for each in held])
        if self.error is not None:
            raise self.error

    def _run_held(self, future: Future[None], task: Callable[[], None], size: int) -> None:
        try:
            self._run(task, size)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    def _run(self, task: Callable[[], None], size: int) -> None:
        try:
            if self.error is not None:
                raise self.error  # what it was to write is not there, whoever waits for it must know
            task()
        except BaseException as error:
            with self._room:
                self.error = first = self.error or error
            if first is error:
                raise
            raise first from None  # of several at once, all tell of the same
        finally:
            with self._room:
                self._waiting -= size
                self._room.notify_all()

    def close(self, *, cancel: bool) -> None:
        """Wait for all work, or drop what has not begun; raises what a task raised unless cancelled."""
        if not cancel and self.error is None:
            self.settle()
        for pool in (self._pool, self._disk):
            pool.shutdown(wait=True, cancel_futures=cancel)
        if self.error is not None and not cancel:
            raise self.error
