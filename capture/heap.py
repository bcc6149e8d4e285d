"""What the C library does with memory that a model frees: keep it for what is allocated next, or give it back.

Memory that comes fresh from the system costs a page fault for every 4 KiB, and is zeroed.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

__all__ = ["give_back_large_blocks", "keep_freed_memory"]

# glibc's names, of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4

DEFAULT_MMAP_MAX = 65536
LARGEST_TRIM_THRESHOLD = 64 * 2**20
"""What glibc comes to by itself where blocks of 32 MiB and more are freed."""


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """While entered, glibc maps no block by itself and gives nothing back; what is free at the end, it gives back.

    Nothing happens with another C library.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_TRIM_THRESHOLD)
        library.malloc_trim(0)


def give_back_large_blocks() -> None:
    """Have glibc give every freed block of 1 MiB or more back at once, instead of raising that size as it sees larger.

    Loading OLMoE's layers one by one peaked at 3.1 GB so, at 4.4 GB without. Nothing happens with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
