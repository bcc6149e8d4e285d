"""The compiled loop of the pass: peaks along both axes and counts at all thresholds, in one visit of each value.

Importing it imports numba, half a second; compiled code is kept beside this file or in the user's cache.

A tile of rows is reduced with its sign cleared and lies in cache. Of each 64 features the tile's maximum says which
thresholds are reached at all. Those few are then counted either by comparing the whole group with one threshold after
another, which is vectorised, or, where few features have hits, by looking each hit of those up; whichever is less work.
Measurements: docs/decisions/052.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["reduce_rows", "total_hits"]

_ROWS = 64
_LANES = 64
_LANE_COST, _HIT_COST, _LEVEL_COST = 25, 5, 80
"""Nanoseconds, about: to scan a lane, to count a hit by itself, to compare a whole tile with one threshold."""

Array = npt.NDArray[Any]


@njit(nogil=True, cache=True, error_model="numpy")
def _take(row: Array, held: Array, position_peak: Array, top: Array, highest: Array, mask: Any, infinity: Any) -> None:
    """One row's magnitudes to ``held``, 0 for NaN, and into both maxima; with NaN, into ``highest``."""
    zero = infinity ^ infinity
    for j in range(row.size):
        magnitude = row[j] & mask
        highest[j] = max(highest[j], magnitude)
        magnitude = magnitude if magnitude <= infinity else zero
        held[j] = magnitude
        top[j] = max(top[j], magnitude)
        position_peak[j] = max(position_peak[j], magnitude)


@njit(nogil=True, cache=True, error_model="numpy")
def _nonfinite(rows: Array, mask: Any, infinity: Any) -> int:
    """How many values are NaN or infinite; hardly ever called."""
    found = 0
    for t in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            found += (rows[t, j] & mask) >= infinity
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _copy(source: Array, target: Array) -> None:
    for j in range(source.size):
        target[j] = source[j]


@njit(nogil=True, cache=True, error_model="numpy")
def _reached(tile: Array, threshold: Any, lanes: Array) -> None:
    """How many of each lane's values reach ``threshold``, to ``lanes``."""
    for j in range(_LANES):
        lanes[j] = 0
    for t in range(_ROWS):
        for j in range(_LANES):
            lanes[j] = np.uint16(lanes[j] + (np.uint16(1) if tile[t * _LANES + j] >= threshold else np.uint16(0)))


@njit(nogil=True, cache=True, error_model="numpy")
def _add(lanes: Array, counts: Array) -> None:
    for j in range(counts.size):
        counts[j] += lanes[j]


@njit(nogil=True, cache=True, error_model="numpy")
def _levels(magnitude: Any, thresholds: Array) -> int:
    """How many of the ascending ``thresholds`` are reached."""
    low, high = 0, thresholds.size
    while low < high:
        middle = (low + high) // 2
        if thresholds[middle] <= magnitude:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True, error_model="numpy")
def _scan(tile: Array, lane: int, rows: int, thresholds: Array, level_of: Array, exactly: Array, feature: int) -> None:
    """Count each hit of one lane by the highest threshold that it reaches, in ``exactly``."""
    least = thresholds[0]
    for t in range(rows):
        magnitude = tile[t * _LANES + lane]
        if magnitude >= least:
            level = level_of[magnitude] if level_of.size else _levels(magnitude, thresholds)
            exactly[level - 1, feature] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def reduce_rows(
    rows: Array,
    thresholds: Array,
    level_of: Array,
    mask: Any,
    infinity: Any,
    counts: Array,
    exactly: Array,
    layer_peak: Array,
    position_peak: Array,
) -> int:
    """Reduce (row, feature) patterns into the outputs; how many values are NaN or infinite.

    ``thresholds`` ascend; all are at least 1. ``counts`` (threshold, feature) uint32 and ``exactly``, of the
    same shape: a value that reaches k thresholds is counted either in the first k of ``counts`` or as one at
    k - 1 in ``exactly``. ``layer_peak`` (feature,) and ``position_peak`` (row, feature) are raised to the maxima; a
    ``position_peak`` of no rows is left out. ``level_of``: thresholds that each pattern reaches, or empty, and they are
    searched.
    """
    size, features = rows.shape
    held = np.empty((_ROWS, features), rows.dtype)
    tile = np.zeros(_ROWS * _LANES, rows.dtype)
    lanes = np.zeros(_LANES, np.uint16)
    top = np.zeros(features, rows.dtype)
    highest = np.zeros(features, rows.dtype)
    spare = np.zeros(features, rows.dtype)
    nonfinite = 0
    for first in range(0, size, _ROWS):
        n = min(_ROWS, size - first)
        top[:] = 0
        for t in range(n):
            along = position_peak[first + t] if position_peak.shape[0] else spare
            _take(rows[first + t], held[t], along, top, highest, mask, infinity)
        if highest.max() >= infinity:
            nonfinite += _nonfinite(rows[first : first + n], mask, infinity)
            highest[:] = 0
        for j in range(features):
            layer_peak[j] = max(layer_peak[j], top[j])
        if thresholds.size == 0:
            continue
        tile[n * _LANES :] = 0
        for f in range(0, features, _LANES):
            width = min(_LANES, features - f)
            largest = top[f : f + width].max()
            if largest < thresholds[0]:
                continue
            if width < _LANES:
                tile[:] = 0
            for t in range(n):
                _copy(held[t, f : f + width], tile[t * _LANES : t * _LANES + width])
            _reached(tile, thresholds[0], lanes)
            levels = level_of[largest] if level_of.size else _levels(largest, thresholds)
            busy, hits = 0, 0
            for j in range(width):
                busy += lanes[j] > 0
                hits += lanes[j]
            if busy * _LANE_COST + hits * _HIT_COST < levels * _LEVEL_COST:
                for j in range(width):
                    if lanes[j]:
                        _scan(tile, j, n, thresholds, level_of, exactly, f + j)
                continue
            _add(lanes, counts[0, f : f + width])
            for k in range(1, levels):
                _reached(tile, thresholds[k], lanes)
                _add(lanes, counts[k, f : f + width])
            if width < _LANES:
                tile[:] = 0
    return nonfinite


@njit(nogil=True, cache=True, error_model="numpy")
def total_hits(counts: Array, exactly: Array) -> None:
    """Add to ``counts`` what ``reduce_rows`` counted in its other way: (threshold, feature) hits at each threshold."""
    thresholds, features = counts.shape
    above = np.zeros(features, counts.dtype)
    for k in range(thresholds - 1, -1, -1):
        _add(exactly[k], above)
        _add(above, counts[k])
