"""Order statistics and counts against sorting and counting."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analyze.order import LargestValues, counts_at_least, kth_largest


def patterns(dtype: str) -> st.SearchStrategy[npt.NDArray[Any]]:
    """Few distinct values, so that most are equal to others."""
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
    return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=st.integers(0, 7)))


@given(patterns("u2"), st.data())
def test_kth_largest_is_that_of_sorted_columns(values: npt.NDArray[Any], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, values.shape[0]))
    assert kth_largest(values, k).tolist() == np.sort(values, axis=0)[::-1][k - 1].tolist()


def test_kth_largest_over_several_blocks_of_features() -> None:
    values = np.random.default_rng(0).integers(0, 1000, (50, 600)).astype(np.uint16)
    assert np.array_equal(kth_largest(values, 7), np.sort(values, axis=0)[-7])


@given(st.lists(hnp.arrays("u4", (3, 2), elements=st.integers(0, 9)), min_size=1, max_size=5), st.data())
def test_largest_values_of_parts_are_those_of_the_whole(parts: list[npt.NDArray[Any]], data: st.DataObject) -> None:
    whole = np.concatenate(parts)
    k = data.draw(st.integers(1, len(whole)))
    held = LargestValues(k, 2, np.dtype("u4"))
    for part in parts:
        held.add(part)
    assert held.kth().tolist() == np.sort(whole, axis=0)[::-1][k - 1].tolist()


@settings(max_examples=200)
@given(st.sampled_from(["u2", "u4"]).flatmap(patterns), st.sets(st.integers(0, 9), min_size=1))
def test_counts_are_those_of_each_comparison(values: npt.NDArray[Any], thresholds: set[int]) -> None:
    told = [[int((column >= t).sum()) for t in sorted(thresholds)] for column in values.T]
    assert counts_at_least(values, sorted(thresholds)).tolist() == told


@pytest.mark.parametrize("first", [0, 60_000, 65_535])
def test_counts_of_all_patterns_whether_many_or_few_reach_a_threshold(first: int) -> None:
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(2**16, dtype=np.uint16), 2)).reshape(-1, 4)
    thresholds = sorted({first, (first + 65_535) // 2, 65_535})
    told = [[int((column >= t).sum()) for t in thresholds] for column in values.T]
    assert counts_at_least(values, thresholds).tolist() == told
