"""The chunk grid of an array: which chunks a selection touches, and whether it covers them whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import zarr

__all__ = ["Index", "bounds", "chunks_of", "covers_chunks", "pieces", "selection", "slices"]

Index = tuple[int | slice, ...]
"""A selection: an integer or a slice of step one for each of the first axes; the rest is taken whole."""


def chunks_of(array: zarr.Array[Any], index: Index) -> Iterator[tuple[int, ...]]:
    """Grid coordinates of the chunks that ``array[index]`` touches."""
    pairs = zip(bounds(array, index), array.chunks, strict=True)
    return itertools.product(*(range(start // chunk, -(-stop // chunk)) for (start, stop), chunk in pairs))


def pieces(array: zarr.Array[Any], index: Index) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """(grid coordinates, its part of ``array[index]``) of every chunk that ``index``, of positive steps, touches."""
    axes = [
        list(_axis_pieces(index[axis] if axis < len(index) else slice(None), size, chunk))
        for axis, (size, chunk) in enumerate(zip(array.shape, array.chunks, strict=True))
    ]
    for parts in itertools.product(*axes):
        yield tuple(chunk for chunk, _ in parts), tuple(place for _, place in parts if place is not None)


def _axis_pieces(picked: int | slice, size: int, chunk: int) -> Iterator[tuple[int, slice | None]]:
    """(chunk, its part of the selection) along one axis; None where the selection drops the axis."""
    if not isinstance(picked, slice):
        yield picked % size // chunk, None
        return
    indices = range(*picked.indices(size))
    first = 0
    while first < len(indices):
        number = indices[first] // chunk
        stop = min(len(indices), -(-((number + 1) * chunk - indices.start) // indices.step))
        yield number, slice(first, stop)
        first = stop


def bounds(array: zarr.Array[Any], index: Index) -> Iterator[tuple[int, int]]:
    """(start, stop) of ``index`` along every axis of ``array``."""
    for axis, size in enumerate(array.shape):
        picked = index[axis] if axis < len(index) else slice(None)
        if not isinstance(picked, slice):
            picked = slice(picked % size, picked % size + 1)
        start, stop, _ = picked.indices(size)
        yield start, max(start, stop)


def slices(array: zarr.Array[Any], index: Index) -> list[tuple[slice, int]]:
    """(slice, length) of every axis that ``index`` keeps, in order."""
    padded = [*index, *[slice(None)] * (array.ndim - len(index))]
    return [(picked, size) for picked, size in zip(padded, array.shape, strict=True) if isinstance(picked, slice)]


def covers_chunks(array: zarr.Array[Any], index: Index) -> bool:
    """True where ``index`` (of steps of one) selects every chunk that it touches as a whole."""
    return all(
        start % chunk == 0 and (stop % chunk == 0 or stop == size)
        for (start, stop), chunk, size in zip(bounds(array, index), array.chunks, array.shape, strict=True)
    )


def selection(array: zarr.Array[Any], coordinates: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of ``array`` that lies in the chunk at ``coordinates`` of its grid."""
    return tuple(slice(c * size, (c + 1) * size) for c, size in zip(coordinates, array.chunks, strict=True))
