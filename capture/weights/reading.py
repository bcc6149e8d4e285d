"""Bytes of a checkpoint read straight to where they belong: into views of a buffer that is used for the whole run.

First-touch page faults of fresh memory and the stacking of experts are what loading a layer costs, not the disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue

import torch

from capture.weights.mxfp4 import Mxfp4Table
from capture.weights.placement import Piece
from capture.weights.recipes import Group
from capture.weights.shards import Shards

__all__ = ["Reader", "place", "same_bits"]

READ_BYTES = 16 * 2**20
"""Larger reads are cut, so that several threads share them."""
SCRATCH_BYTES = 4 * 2**20
"""What is cast or unpacked is read in parts of this size: it stays in the processor's cache."""

Task = Callable[[], None]
Views = Mapping[str, torch.Tensor]


class Reader:
    """Reads groups of tensors into ``views``, by the names of the parameters that they become."""

    def __init__(self, shards: Shards, table: Callable[[torch.dtype], Mxfp4Table]) -> None:
        self._shards = shards
        self._table = table
        self._idle: SimpleQueue[torch.Tensor] = SimpleQueue()

    def tasks(self, group: Group, views: Views) -> Iterator[Task]:
        """What is to be done, in any order and in any threads, to read ``group``, which is placed or packed."""
        if group.recipe.packed:
            yield from self._unpacking(group, views)
            return
        apart: dict[str, list[tuple[Piece, torch.Tensor]]] = {}
        for target in group.recipe.targets:
            for piece in target.pieces:
                region = views[target.name][piece.region]
                if region.is_contiguous() and piece.part.is_contiguous():
                    yield from self._straight(group.names[int(piece.source)], piece.part, region)
                else:
                    apart.setdefault(group.names[int(piece.source)], []).append((piece, region))
        for name, scattered in apart.items():
            yield self._scattering(name, scattered)

    def _straight(self, name: str, part: torch.Tensor, region: torch.Tensor) -> Iterator[Task]:
        """One run of bytes to another: read in place, or cast on the way."""
        flat, begin = region.view(-1), part.storage_offset()
        step = (READ_BYTES if region.dtype == part.dtype else SCRATCH_BYTES) // part.element_size()
        for start in range(0, flat.numel(), step):
            into, at = flat[start : start + step], int(begin + start) * part.element_size()

            def read(into: torch.Tensor = into, at: int = at) -> None:
                if into.dtype == part.dtype:
                    self._shards.read_into(name, into.view(torch.uint8).numpy().data, at)
                    return
                with self._scratch(into.numel() * part.element_size()) as scratch:
                    self._shards.read_into(name, scratch.numpy().data, at)
                    into.copy_(scratch.view(part.dtype))

            yield read

    def _scattering(self, name: str, scattered: Sequence[tuple[Piece, torch.Tensor]]) -> Task:
        """One part of a tensor that goes to regions which are no runs of bytes, or lies in it transposed."""
        parts = [piece.part for piece, _ in scattered]
        begin = min(int(part.storage_offset()) for part in parts)
        end = max(int(part.storage_offset()) + _extent(part) for part in parts)

        def read() -> None:
            size = parts[0].element_size()
            with self._scratch((end - begin) * size) as scratch:
                self._shards.read_into(name, scratch.numpy().data, begin * size)
                whole = scratch.view(parts[0].dtype)
                for part, (_, region) in zip(parts, scattered, strict=True):
                    region.copy_(whole.as_strided(part.shape, part.stride(), part.storage_offset() - begin))

        return read

    def _unpacking(self, group: Group, views: Views) -> Iterator[Task]:
        blocks, scales = group.names
        (target,) = group.recipe.targets
        experts, rows, groups, _ = self._shards.tensors[blocks].shape
        step = max(1, SCRATCH_BYTES // (groups * 64))
        for expert in range(experts):
            for row in range(0, rows, step):
                count = min(step, rows - row)

                def read(expert: int = expert, row: int = row, count: int = count) -> None:
                    first = expert * rows + row
                    with self._scratch(count * groups * 17) as scratch:
                        packed, scale = scratch[: count * groups * 16], scratch[count * groups * 16 :]
                        self._shards.read_into(blocks, packed.numpy().data, first * groups * 16)
                        self._shards.read_into(scales, scale.numpy().data, first * groups)
                        into = views[target.name][expert, :, row : row + count]
                        table = self._table(target.dtype)
                        table.unpack(packed.view(count, groups, 16), scale.view(count, groups), into)

                yield read

    @contextmanager
    def _scratch(self, size_bytes: int) -> Iterator[torch.Tensor]:
        """Bytes to be used for a moment; they are used again, but no more than some are kept."""
        try:
            kept = self._idle.get_nowait()
        except Empty:
            kept = torch.empty(0, dtype=torch.uint8)
        if kept.numel() < size_bytes:
            kept = torch.empty(size_bytes, dtype=torch.uint8)
        yield kept[:size_bytes]
        if kept.numel() <= 2 * SCRATCH_BYTES:
            self._idle.put(kept)


def place(group: Group, tensors: Mapping[int, torch.Tensor], views: Views) -> None:
    """Put ``tensors`` of ``group``, by their position in it, where they belong: the same result, from memory."""
    for target in group.recipe.targets:
        for piece in target.pieces:
            if int(piece.source) in tensors:
                flat = tensors[int(piece.source)].reshape(-1)
                part = piece.part
                views[target.name][piece.region] = flat.as_strided(part.shape, part.stride(), part.storage_offset())


def same_bits(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    """True where both have the same shape, dtype and bits: NaN equals itself, and 0 is not -0."""
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.view(integers), other.view(integers))


def _extent(part: torch.Tensor) -> int:
    """Elements from the first to the last, in memory."""
    if math.prod(part.shape) == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(part.shape, part.stride(), strict=True))
