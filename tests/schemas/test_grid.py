"""Selections and chunks against a brute-force look at every element."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import grid


@st.composite
def arrays_and_selections(draw: st.DrawFn) -> tuple[zarr.Array[Any], tuple[int | slice, ...]]:
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    chunks = [draw(st.integers(1, size)) for size in shape]
    index: list[int | slice] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        start = draw(st.integers(0, size - 1))
        whole = st.slices(size).filter(lambda picked: (picked.step or 1) == 1)
        index.append(draw(st.one_of(st.integers(-size, size - 1), st.just(slice(start, size)), whole)))
    return zarr.create_array({}, shape=tuple(shape), chunks=tuple(chunks), dtype="uint8"), tuple(index)


@settings(deadline=None)
@given(arrays_and_selections())
def test_a_selection_touches_and_covers_the_chunks_that_its_elements_lie_in(
    drawn: tuple[zarr.Array[Any], tuple[int | slice, ...]],
) -> None:
    array, index = drawn
    picked = np.zeros(array.shape, bool)
    picked[index] = True
    touched = {
        tuple(int(at) // chunk for at, chunk in zip(cell, array.chunks, strict=True)) for cell in np.argwhere(picked)
    }
    found = list(grid.chunks_of(array, index))
    assert len(found) == len(set(found))
    assert set(found) >= touched
    if picked.any():
        assert set(found) == touched
        whole = all(picked[grid.selection(array, coordinates)].all() for coordinates in touched)
        assert grid.covers_chunks(array, index) == whole
    parts = dict(grid.pieces(array, index))
    assert set(parts) == touched
    owner = np.indices(array.shape) // np.reshape(array.chunks, (-1, *[1] * array.ndim))
    for coordinates, place in parts.items():
        assert (coordinates == owner[(slice(None), *index)][(slice(None), *place)].T).all()
    assert sum(np.ones(array.shape)[index][place].size for place in parts.values()) == picked.sum()
    assert tuple(len(range(*axis.indices(size))) for axis, size in grid.slices(array, index)) == picked[index].shape


def test_pieces_of_a_selection_with_steps_leave_out_chunks_that_are_stepped_over() -> None:
    array = zarr.create_array({}, shape=(10,), chunks=(2,), dtype="uint8")
    assert list(grid.pieces(array, (slice(1, None, 4),))) == [
        ((0,), (slice(0, 1),)),
        ((2,), (slice(1, 2),)),
        ((4,), (slice(2, 3),)),
    ]
