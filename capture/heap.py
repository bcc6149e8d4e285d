"""What the C library does with memory that a model frees: keep it for what is allocated next, or give it back.

Memory that comes fresh from the system costs a page fault for every 4 KiB, and is zeroed. Nothing here does anything
with a C library other than glibc.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

__all__ = ["give_back_large_blocks", "keep_freed_memory", "keep_small_blocks", "large_blocks_given_back"]

# glibc's names, of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4

DEFAULT_MMAP_MAX = 65536
LARGEST_TRIM_THRESHOLD = 64 * 2**20
"""What glibc comes to by itself where blocks of 32 MiB and more are freed."""
NEVER = 2**31 - 1

LARGE_BYTES = 2**20
"""What is given back at once while nothing computes."""
SMALL_BYTES = 32 * 2**20
"""Larger blocks glibc maps by themselves whatever is done with it by default, too."""
GROWTH_BYTES = 64 * 2**20
"""What the heap may grow by, beyond what its blocks need, before the free memory in it is given back."""


_kept_below = LARGE_BYTES
"""What was set last: glibc does not tell."""


class _Counts(ctypes.Structure):
    """glibc's ``struct mallinfo2``: bytes, of all arenas."""

    _fields_ = (("arena", ctypes.c_size_t), ("others", ctypes.c_size_t * 9))


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """While entered, glibc maps no block by itself and gives nothing back; what is free at the end, it gives back."""
    library = _glibc("malloc_trim")
    if library is None:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_TRIM_THRESHOLD)
        library.malloc_trim(0)


@contextlib.contextmanager
def keep_small_blocks() -> Iterator[Callable[[], None]]:
    """While entered, freed blocks below 32 MiB serve the next ones, and larger ones are given back at once.

    Gives a call to be made between layers: where the heap has grown, as it does by splinters that fit nothing, its free
    memory is given back. Afterwards ``give_back_large_blocks`` holds. Before glibc 2.33 it holds all the time.
    """
    library = _glibc("malloc_trim", "mallinfo2")
    if library is None:
        yield lambda: None
        return
    library.mallinfo2.restype = _Counts
    _keep_below(library, SMALL_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    tidy: int | None = None

    def between() -> None:
        nonlocal tidy
        size = library.mallinfo2().arena
        if tidy is None or size < tidy:
            tidy = size
        elif size - tidy > GROWTH_BYTES:
            library.malloc_trim(0)
            tidy = library.mallinfo2().arena

    try:
        yield between
    finally:
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_TRIM_THRESHOLD)
        give_back_large_blocks()
        library.malloc_trim(0)


def give_back_large_blocks() -> None:
    """Have glibc give every freed block of 1 MiB or more back at once, instead of raising that size as it sees larger.

    Loading OLMoE's layers one by one peaked at 3.1 GB so, at 4.4 GB without.
    """
    if (library := _glibc()) is not None:
        _keep_below(library, LARGE_BYTES)


@contextlib.contextmanager
def large_blocks_given_back() -> Iterator[None]:
    """While entered, ``give_back_large_blocks`` holds, whatever held before and will again."""
    library, before = _glibc(), _kept_below
    give_back_large_blocks()
    try:
        yield
    finally:
        if library is not None:
            _keep_below(library, before)


def _keep_below(library: ctypes.CDLL, size: int) -> None:
    global _kept_below
    _kept_below = size
    library.mallopt(M_MMAP_THRESHOLD, size)


def _glibc(*calls: str) -> ctypes.CDLL | None:
    """The C library, where it has ``mallopt`` and these."""
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(None)
        if all(hasattr(library, call) for call in ("mallopt", *calls)):
            return library
    return None
