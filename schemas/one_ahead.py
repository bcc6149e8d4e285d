"""Looking at one thing while the next is being read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["one_ahead"]

Item = TypeVar("Item")
Read = TypeVar("Read")


def one_ahead(read: Callable[[Item], Read], items: Iterable[Item]) -> Iterator[Read]:
    """What ``read`` makes of each item, in order; a thread reads the next while the caller looks at one.

    Two results are in memory at a time. Raises what ``read`` raises, at its item.

    >>> list(one_ahead(abs, [1, -2, 3]))
    [1, 2, 3]
    """
    left = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        reading = [thread.submit(read, item) for item in itertools.islice(left, 1)]
        while reading:
            found = reading.pop().result()
            reading = [thread.submit(read, item) for item in itertools.islice(left, 1)]
            yield found
