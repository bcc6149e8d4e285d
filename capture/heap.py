"""What the C library does with memory that a model frees: keep it for what is allocated next, or give it back.

Memory that comes fresh from the system costs a page fault for every 4 KiB, and is zeroed. Nothing here does anything
with a C library other than glibc.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

__all__ = [
    "SMALL_BYTES",
    "give_back_large_blocks",
    "keep_any_block",
    "keep_small_blocks",
    "large_blocks_given_back",
]

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
SMALL_BYTES = 16 * 2**20
"""Of blocks in the heap much stays unused: aligned ones leave holes that are a few bytes too small for the next of
their size (decision 042). Of larger ones that would be gigabytes, and glibc keeps none from 32 MiB on anyway."""
GROWTH_BYTES = 64 * 2**20
"""What the heap may grow by, beyond what its blocks need, before the free memory in it is given back."""


_kept_below = LARGE_BYTES
"""What was set last: glibc does not tell."""


class _Counts(ctypes.Structure):
    """glibc's ``struct mallinfo2``: bytes, of all arenas."""

    _fields_ = (("arena", ctypes.c_size_t), ("others", ctypes.c_size_t * 9))


@contextlib.contextmanager
def keep_small_blocks() -> Iterator[Callable[[], None]]:
    """While entered, freed blocks below 16 MiB serve the next ones, and larger ones are given back at once.

    Gives a call to be made between layers: where the heap has grown, as it does by splinters that fit nothing, its free
    memory is given back; before glibc 2.33, which does not tell its size, always. Afterwards ``give_back_large_blocks``
    holds, and what is free is given back.
    """
    library = _glibc("malloc_trim")
    if library is None:
        yield lambda: None
        return
    tells = hasattr(library, "mallinfo2")
    if tells:
        library.mallinfo2.restype = _Counts
    _keep_below(library, SMALL_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    tidy: int | None = None

    def between() -> None:
        nonlocal tidy
        if not tells:
            library.malloc_trim(0)
            return
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


@contextlib.contextmanager
def keep_any_block() -> Iterator[None]:
    """While entered, glibc maps no block by itself: within ``keep_small_blocks``, freed ones of any size are kept."""
    library = _glibc()
    if library is not None:
        library.mallopt(M_MMAP_MAX, 0)
    try:
        yield
    finally:
        if library is not None:
            library.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)


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
