"""The compiled loop of the pass: peaks along both axes and counts at all thresholds, in one visit of each value.

Importing it imports numba, half a second; compiled code is kept beside this file or in the user's cache.

Rows are taken some at a time, which then lie in cache. Their maximum by feature, needed for the peaks anyway, says
which features reach the least threshold. Those are few, and each of their values is looked up in a table of the
thresholds that a pattern reaches. Where that would cost more, 64 features at once are compared with one threshold after
another, which is vectorised. Measurements: docs/decisions/052.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["reduce_rows", "total_hits"]

_ROWS = 64
_LANES = 64
_FLAGS = 8
"""Features whose flags are looked at together, as one word."""
_LANE_COST, _TILE_COST, _LEVEL_COST = 80, 200, 80
"""Nanoseconds, about: to look up a feature's values in ``_ROWS`` rows, to copy ``_LANES`` features of them to a tile,
to compare a tile with a threshold."""

Array = npt.NDArray[Any]


@njit(nogil=True, cache=True, error_model="numpy")
def _raise_both(row: Array, top: Array, position_peak: Array, mask: Any, infinity: Any) -> None:
    """One row's magnitudes into both maxima; NaN only into ``top``, where it shows."""
    zero = infinity ^ infinity
    for j in range(row.size):
        top[j] = max(top[j], row[j] & mask)
        position_peak[j] = max(position_peak[j], (row[j] & mask) if (row[j] & mask) <= infinity else zero)


@njit(nogil=True, cache=True, error_model="numpy")
def _raise(row: Array, top: Array, mask: Any) -> None:
    """One row's magnitudes, of NaN too, into the maxima."""
    for j in range(row.size):
        top[j] = max(top[j], row[j] & mask)


@njit(nogil=True, cache=True, error_model="numpy")
def _clean(row: Array, held: Array, mask: Any, infinity: Any) -> None:
    """One row's magnitudes to ``held``, 0 for NaN."""
    zero = infinity ^ infinity
    for j in range(row.size):
        held[j] = (row[j] & mask) if (row[j] & mask) <= infinity else zero


@njit(nogil=True, cache=True, error_model="numpy")
def _any(top: Array, least: Any) -> Any:
    """1 where one of the maxima reaches ``least``, else 0: or-ed, as a search that may end is not vectorised."""
    found = np.uint8(0)
    for j in range(top.size):
        found = np.uint8(found | (np.uint8(1) if top[j] >= least else np.uint8(0)))
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _flag(top: Array, least: Any, flags: Array) -> None:
    """1 for each of the maxima that reaches ``least``, else 0, to ``flags``."""
    for j in range(top.size):
        flags[j] = np.uint8(1) if top[j] >= least else np.uint8(0)


@njit(nogil=True, cache=True, error_model="numpy")
def _nonfinite(rows: Array, mask: Any, infinity: Any) -> int:
    """How many values are NaN or infinite; hardly ever called."""
    found = 0
    for t in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            found += (rows[t, j] & mask) >= infinity
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _copy(source: Array, target: Array, mask: Any) -> None:
    for j in range(source.size):
        target[j] = source[j] & mask


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
def _list(words: Array, flags: Array, first: int, listed: Array, n: int) -> int:
    """Append the flagged ones of ``_LANES`` features from ``first`` on to the ``n`` of ``listed``; the new ``n``."""
    for w in range(first // _FLAGS, (first + _LANES) // _FLAGS):
        if words[w]:
            for j in range(w * _FLAGS, (w + 1) * _FLAGS):
                listed[n] = j
                n += flags[j]
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _largest(top: Array) -> int:
    largest = 0
    for j in range(top.size):
        largest = max(largest, top[j])
    return largest


@njit(nogil=True, cache=True, error_model="numpy")
def _look_up(rows: Array, listed: Array, thresholds: Array, level_of: Array, exactly: Array, mask: Any) -> None:
    """Count each value of the ``listed`` features in ``exactly`` by how many thresholds it reaches.

    With a table there is no branch: half of an outlier feature's values are hits, which no processor foresees. Row by
    row, so that two additions to one number, which wait for each other, lie apart.
    """
    for t in range(rows.shape[0]):
        row = rows[t]
        if level_of.size:
            for j in listed:
                exactly[level_of[row[j] & mask], j] += 1
        else:
            for j in listed:
                magnitude = row[j] & mask
                if magnitude >= thresholds[0]:
                    exactly[_levels(magnitude, thresholds), j] += 1


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

    ``thresholds`` ascend; all are at least 1. ``counts`` (threshold, feature) uint32 and ``exactly`` (1 + thresholds,
    feature): a value that reaches k thresholds is counted either in the first k of ``counts`` or as one at k in
    ``exactly``, whose first row says nothing. ``layer_peak`` (feature,) and ``position_peak`` (row, feature) are raised
    to the maxima; a ``position_peak`` of no rows is left out. ``level_of``: thresholds that each pattern reaches, or
    empty, and they are searched.
    """
    size, features = rows.shape
    top = np.zeros(features, rows.dtype)
    clean = np.zeros((0, features), rows.dtype)
    flags = np.zeros(-(-features // _LANES) * _LANES, np.uint8)
    words = flags.view(np.uint64)
    listed = np.zeros(flags.size + 1, np.int64)
    tile = np.zeros(_ROWS * _LANES, rows.dtype)
    lanes = np.zeros(_LANES, np.uint16)
    nonfinite = 0
    for first in range(0, size, _ROWS):
        n = min(_ROWS, size - first)
        source = rows[first : first + n]
        top[:] = 0
        for t in range(n):
            if position_peak.shape[0]:
                _raise_both(source[t], top, position_peak[first + t], mask, infinity)
            else:
                _raise(source[t], top, mask)
        if _any(top, infinity):
            nonfinite += _nonfinite(source, mask, infinity)
            if clean.shape[0] == 0:
                clean = np.zeros((_ROWS, features), rows.dtype)
            top[:] = 0
            for t in range(n):
                _clean(source[t], clean[t], mask, infinity)
                _raise(clean[t], top, mask)
            source = clean[:n]
        _raise(top, layer_peak, mask)
        if thresholds.size == 0:
            continue
        _flag(top, thresholds[0], flags[:features])
        found = 0
        for f in range(0, features, _LANES):
            before = found
            found = _list(words, flags, f, listed, before)
            cost = (found - before) * _LANE_COST
            if cost <= _TILE_COST:
                continue
            width = min(_LANES, features - f)
            largest = _largest(top[f : f + width])
            levels = level_of[largest] if level_of.size else _levels(largest, thresholds)
            if cost <= _TILE_COST + levels * _LEVEL_COST:
                continue
            found = before
            if n < _ROWS or width < _LANES:
                tile[:] = 0
            for t in range(n):
                _copy(source[t, f : f + width], tile[t * _LANES : t * _LANES + width], mask)
            for k in range(levels):
                _reached(tile, thresholds[k], lanes)
                _add(lanes, counts[k, f : f + width])
        _look_up(source, listed[:found], thresholds, level_of, exactly, mask)
    return nonfinite


@njit(nogil=True, cache=True, error_model="numpy")
def total_hits(counts: Array, exactly: Array) -> None:
    """Add to ``counts`` what ``reduce_rows`` counted in its other way: (threshold, feature) hits at each threshold."""
    thresholds, features = counts.shape
    above = np.zeros(features, counts.dtype)
    for k in range(thresholds - 1, -1, -1):
        _add(exactly[k + 1], above)
        _add(above, counts[k])
