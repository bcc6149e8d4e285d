"""Order statistics and counts of bit patterns: the arithmetic that every answer rests on, in integers throughout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LargestValues", "counts_at_least", "kth_largest"]

Patterns = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]

_BLOCK = 256
"""Features worked on at a time: their transposed copy stays small and in cache."""


def kth_largest(values: Patterns, k: int) -> Patterns:
    """The k-th largest of each column, k from 1: (n, feature) -> (feature,), same dtype.

    Partitions a contiguous transposed copy: at 2048 x 2048 patterns of 16 bits twice as fast as along axis 0.

    >>> kth_largest(np.array([[1, 7], [3, 5], [2, 6]], dtype=np.uint16), 2).tolist()
    [2, 6]
    """
    n, features = values.shape
    found = np.empty(features, values.dtype)
    for start in range(0, features, _BLOCK):
        rows = values[:, start : start + _BLOCK].T.copy()
        rows.partition(n - k, axis=1)
        found[start : start + _BLOCK] = rows[:, n - k]
    return found


class LargestValues:
    """The k largest values of each feature over positions that arrive a sequence at a time.

    Holds k values of each feature, so it is bounded by the share of positions that is asked for.
    """

    def __init__(self, k: int, features: int, dtype: np.dtype[Any]) -> None:
        """Start with nothing seen: zeros, which are below every pattern or equal to it."""
        self.k = k
        self.held = np.zeros((features, k), dtype)

    def add(self, values: Patterns) -> None:
        """Take in (position, feature) patterns."""
        for start in range(0, self.held.shape[0], _BLOCK):
            part = slice(start, start + _BLOCK)
            both = np.concatenate([self.held[part], values[:, part].T], axis=1)
            both.partition(values.shape[0], axis=1)
            self.held[part] = both[:, values.shape[0] :]

    def kth(self) -> Patterns:
        """The k-th largest of each feature: (feature,)."""
        smallest: Patterns = self.held.min(axis=1)
        return smallest


def counts_at_least(values: Patterns, thresholds: Sequence[int]) -> Counts:
    """How many values of each column reach each threshold: (n, feature) -> (feature, threshold) int64.

    ``thresholds`` ascend. Values below the first, which in practice are nearly all, cost one comparison each.

    >>> counts_at_least(np.array([[1, 7], [3, 5]], dtype=np.uint16), [2, 5]).tolist()
    [[1, 0], [2, 2]]
    """
    features, levels = values.shape[1], len(thresholds)
    reached = values >= np.asarray(thresholds[0]).astype(values.dtype)
    if levels == 1:
        column: Counts = np.count_nonzero(reached, axis=0).astype(np.int64)[:, np.newaxis]
        return column
    _, feature = np.nonzero(reached)
    level = np.searchsorted(np.asarray(thresholds, dtype=values.dtype), values[reached], side="right")
    exactly = np.bincount(feature * levels + (level - 1), minlength=features * levels).reshape(features, levels)
    at_least: Counts = exactly[:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.int64)
    return at_least
