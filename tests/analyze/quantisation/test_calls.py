"""Outlier columns against tokens per call, counted call by call."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from analyze.quantisation.calls import columns_by_call, joined_calls, sizes_within

SIX = np.float32(6)


def values_of(tokens: int, features: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    strange = random.choice(np.float32([6, -6, np.inf, -np.inf, np.nan, 5.96875]), (tokens, features))
    return np.where(random.random((tokens, features)) < 0.2, strange, np.float32(1))


def hits_of(values: np.ndarray) -> np.ndarray:
    return np.array([[x == x and abs(x) >= 6 for x in row] for row in values.tolist()]).reshape(values.shape)


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_columns_within_a_sequence(tokens: int, features: int, seed: int) -> None:
    values = values_of(tokens, features, seed)
    hits = hits_of(values)
    columns, whole = columns_by_call(values, SIX)
    for size, found in zip(sizes_within(tokens), columns.tolist(), strict=True):
        calls = [hits[start : start + size] for start in range(0, tokens - size + 1, size)]
        assert len(calls) == tokens // size
        assert found == sum(int(call.any(axis=0).sum()) for call in calls)
    assert np.unpackbits(whole, count=features).tolist() == hits.any(axis=0).tolist()


@given(st.integers(1, 13), st.sets(st.integers(0, 12)), st.integers(0, 2**32 - 1))
def test_columns_of_several_sequences(sequences: int, absent: set[int], seed: int) -> None:
    values = [values_of(3, 9, seed + i) for i in range(sequences)]
    hits = [hits_of(each) for each in values]
    packed = [None if i in absent else columns_by_call(each, SIX)[1] for i, each in enumerate(values)]
    found = joined_calls(packed)
    assert list(found) == sizes_within(sequences)[1:]
    for size, (columns, calls) in found.items():
        groups = [range(start, start + size) for start in range(0, sequences - size + 1, size)]
        whole = [group for group in groups if not absent & set(group)]
        assert calls == len(whole)
        assert columns == sum(int(np.any([hits[i].any(axis=0) for i in group], axis=0).sum()) for group in whole)


def test_no_token_makes_no_call() -> None:
    columns, whole = columns_by_call(np.zeros((0, 9), np.float32), SIX)
    assert columns.size == 0
    assert whole.tolist() == [0, 0]
