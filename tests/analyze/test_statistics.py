"""The bootstrap interval and the quartiles' ranks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from analyze.thresholds.bootstrap import mean_intervals
from analyze.thresholds.quartiles import virtual_ranks


def test_one_sequence_has_no_interval() -> None:
    assert mean_intervals(np.array([[3, 4]])) == [None, None]


def test_the_interval_is_the_same_every_time_and_of_each_column_alone() -> None:
    counts = np.array([[3, 9, 0], [5, 9, 1], [4, 9, 0], [12, 9, 0]])
    together = mean_intervals(counts)
    assert together == mean_intervals(counts)
    assert together == [mean_intervals(counts[:, [column]])[0] for column in range(3)]
    assert together[1] == (9.0, 9.0)
    low, high = together[0] or (0.0, 0.0)
    assert 3 <= low < 6 < high <= 12


def test_the_interval_is_that_of_resampled_means() -> None:
    """Two sequences: a resample's mean is that of one, of both or of the other, with odds 1:2:1."""
    assert mean_intervals(np.array([[0], [10]])) == [(0.0, 10.0)]


def test_the_interval_of_many_sequences_is_near_the_normal_one() -> None:
    counts = np.random.default_rng(3).poisson(100, (400, 1))
    ((low, high),) = [found for found in mean_intervals(counts) if found is not None]
    width = 1.96 * counts.std() / 20
    assert abs(low - (counts.mean() - width)) < 0.1
    assert abs(high - (counts.mean() + width)) < 0.1


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=40))
def test_quartile_ranks_are_those_of_numpy(values: list[int]) -> None:
    ordered = sorted(values)
    found = [
        ordered[low] + (ordered[high] - ordered[low]) * float(weight)
        for low, high, weight in virtual_ranks(len(values))
    ]
    assert found == np.quantile(values, [0.25, 0.5, 0.75], method="linear").tolist()
