"""The queue of the writing threads: who waits for a task that was not done must know."""

from __future__ import annotations

import threading

import pytest

from capture.writer_queue import WriterQueue


def fail() -> None:
    raise OSError("no room")


@pytest.mark.parametrize("beside", [True, False])
def test_what_is_left_undone_after_a_failure_says_so(beside: bool) -> None:
    queue, done = WriterQueue(1, 100, beside=beside), threading.Event()
    first = queue.put(fail, 0)
    second = queue.put(done.set, 0)
    if not beside:
        with pytest.raises(OSError, match="no room"):
            queue.settle()
    for future in (first, second):
        with pytest.raises(OSError, match="no room"):
            future.result(10)
    assert not done.is_set()
    with pytest.raises(OSError, match="no room"):
        queue.close(cancel=False)
