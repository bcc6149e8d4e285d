"""What a store is asked beside zarr-python's own reads, on its event loop: which chunks are absent, and to be done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import zarr
from zarr.core.sync import sync

__all__ = ["absent_chunks", "finish_tasks"]

_AT_ONCE = 32
_PATIENCE_SECONDS = 30.0
_turn = threading.Lock()


def absent_chunks(array: zarr.Array[Any], chunks: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those of ``chunks``, grid coordinates, that the store does not hold; asked of it at once, 32 at a time."""

    async def absent() -> list[bool | BaseException]:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(coordinates: tuple[int, ...]) -> bool:
            async with turn:
                return not await (array.store_path / array.metadata.encode_chunk_key(coordinates)).exists()

        return await asyncio.gather(*map(one, chunks), return_exceptions=True)

    found = []
    for coordinates, answer in zip(chunks, sync(absent()) if chunks else [], strict=True):
        if isinstance(answer, BaseException):
            raise answer
        if answer:
            found.append(coordinates)
    return found


def finish_tasks() -> None:
    """Wait for the reads and writes that are in flight now, whatever comes of them.

    Where one chunk of a selection cannot be read, or written, zarr-python raises at once and leaves the tasks of the
    others pending: they go on, and if the process then ends, each writes "Task was destroyed" to stderr.
    """

    async def finish() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_PATIENCE_SECONDS)

    with _turn:  # two that waited at once would wait for each other
        sync(finish())
