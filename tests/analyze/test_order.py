"""Order statistics and counts against sorting and counting."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analyze.thresholds import order
from analyze.thresholds.bootstrap import mean_intervals
from analyze.thresholds.order import LargestValues, count_blocks, counts_at_least, kth_largest
from analyze.thresholds.units import Staircase


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


@settings(max_examples=100)
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


@pytest.mark.parametrize("table_bytes", [1, 100, 2**24])
def test_counts_in_blocks_of_features_are_those_of_all(table_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_TABLE_BYTES", table_bytes)
    random = np.random.default_rng(0)
    values, thresholds = random.integers(0, 9, (20, 11)).astype(np.uint16), [2, 3, 7]
    lengths = random.integers(0, 4, 11)
    told = counts_at_least(values, thresholds)
    blocks = list(count_blocks(values, thresholds))
    assert len(blocks) == (1 if table_bytes == 2**24 else 4 if table_bytes == 100 else 11)
    assert np.concatenate([table for _, table in blocks]).tolist() == told.tolist()
    stairs = Staircase.counted(values, thresholds, lengths)
    rows = [stairs.flat[start : start + length].tolist() for start, length in zip(stairs.starts, lengths, strict=True)]
    assert rows == [row[:length].tolist() for row, length in zip(told, lengths, strict=True)]


@pytest.mark.slow
def test_ten_thousand_magnitudes_take_little_memory() -> None:
    """The whole table of 4,096 features is 313 MiB, the resampled means are 763 MiB, and copies come on top."""
    values = np.random.default_rng(0).integers(0, 2**16, (16, 4096)).astype(np.uint16)
    tracemalloc.start()
    try:
        Staircase.counted(values, range(0, 60_000, 6), np.full(4096, 10))
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.reset_peak()
        mean_intervals(np.arange(20_000).reshape(2, -1))
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
