"""The compiled loop of the pass: peaks along both axes and counts at all thresholds, in one visit of each value.

Importing it imports numba, half a second; compiled code is kept beside this file or in the user's cache.

Rows are taken some at a time, which then lie in cache. Their maximum by feature, needed for the peaks anyway, says
which features reach the least threshold. Those are few, and each of their values is looked up in a table of the
thresholds that a pattern reaches. Where that would cost more, 64 features at once are compared with one threshold after
another, which is vectorised.

A chunk may be decoded by Blosc a block at a time, each reduced while it lies in cache. Blosc has no call for that which
does not copy. A block, though, is a frame of one block once 20 bytes stand before it: a header, and where it starts.
They are written over what lies there in the frame and then put back, so Blosc decodes each block into the same memory.
The frame: github.com/Blosc/c-blosc, README_CHUNK_FORMAT.rst. That is all in this file since numba, which keeps compiled
code, compiles it anew only when the file changes that it is in. Measurements: docs/decisions/052.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.core.typing import signature
from numcodecs import blosc

__all__ = ["UNDECODED", "decodes_blocks", "reduce_blocks", "reduce_rows", "total_hits"]

_ROWS = 64
_LANES = 64
_FLAGS = 8
"""Features whose flags are looked at together, as one word."""
_LANE_COST, _TILE_COST, _LEVEL_COST = 80, 200, 80
"""Nanoseconds, about: to look up a feature's values in ``_ROWS`` rows, to copy ``_LANES`` features of them to a tile,
to compare a tile with a threshold."""

UNDECODED = -1
_HEADER = 16
_FIRST = 20
"""Bytes before the first block of a frame of one: the header, and where it starts."""
_COPIED = 2
"""Flag of a frame that is not compressed and has no blocks."""
_SYMBOL = "outlier_features_blosc_decompress_ctx"

Array = npt.NDArray[Any]

_decompress = types.ExternalFunction(
    _SYMBOL, signature(types.int32, types.voidptr, types.voidptr, types.uintp, types.int32)
)


@lru_cache(maxsize=1)
def decodes_blocks() -> bool:
    """Whether ``reduce_blocks`` may be called: the compiler is told where numcodecs' Blosc 1 is, if that shows one."""
    try:
        library = ctypes.CDLL(blosc.__file__)
        version = library.blosc_get_version_string
        version.restype = ctypes.c_char_p
        address = ctypes.cast(library.blosc_decompress_ctx, ctypes.c_void_p).value
        if not address or not version().startswith(b"1."):
            return False
    except (AttributeError, OSError):
        return False
    llvm.add_symbol(_SYMBOL, address)
    return True


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

    ``thresholds`` ascend; all are at least 1. ``counts`` (threshold, feature) and ``exactly`` (1 + thresholds,
    feature), unsigned, hold numbers up to that of rows: a value that reaches k thresholds is counted either in the
    first k of ``counts`` or as one at k in ``exactly``, whose first row says nothing. ``layer_peak`` (feature,) and
    ``position_peak`` (row, feature) are raised to the maxima; a ``position_peak`` of no rows is left out. ``level_of``:
    thresholds that each pattern reaches, or empty, and they are searched.
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
def _number(frame: Array, at: int) -> Any:
    """The little-endian int32 at byte ``at``."""
    value = np.int64(0)
    for i in range(4):
        value |= np.int64(frame[at + i]) << (8 * i)
    return value - (1 << 32) if value >= 1 << 31 else value


@njit(nogil=True, cache=True, error_model="numpy")
def _write(frame: Array, at: int, value: int) -> None:
    for i in range(4):
        frame[at + i] = np.uint8((value >> (8 * i)) & 0xFF)


@njit(nogil=True, cache=True, error_model="numpy")
def _decode(frame: Array, start: int, size: int, block: int, held: Array, into: Array) -> int:
    """Decode the block of ``size`` bytes at ``start`` to ``into``, of ``block`` bytes or more; how many came out."""
    own = frame[start - _FIRST : start]
    held[:] = own
    own[:4] = frame[:4]
    _write(own, 4, size)
    _write(own, 8, block)
    _write(own, 12, frame.size - start + _FIRST)
    _write(own, 16, _FIRST)
    found = _decompress(own.ctypes, into.ctypes, np.uintp(into.size * into.itemsize), np.int32(1))
    own[:] = held
    return int(found)


@njit(nogil=True, cache=True, error_model="numpy")
def reduce_blocks(
    frame: Array,
    thresholds: Array,
    level_of: Array,
    mask: Any,
    infinity: Any,
    counts: Array,
    exactly: Array,
    layer_peak: Array,
    position_peak: Array,
) -> int:
    """``reduce_rows`` of the rows in a Blosc ``frame`` (byte,), or UNDECODED where that is to be decoded as a whole.

    Only to be called where ``decodes_blocks`` says so. After UNDECODED the outputs are of no use, but that
    ``position_peak`` was raised by true values only. ``frame`` is written to, and ends as it was.
    """
    features, itemsize = layer_peak.size, layer_peak.itemsize
    if frame.size < _HEADER or frame[2] & _COPIED:
        return UNDECODED
    nbytes, block = _number(frame, 4), _number(frame, 8)
    if block <= 0 or block > nbytes or block % itemsize or nbytes % (features * itemsize):
        return UNDECODED
    blocks = -(-nbytes // block)
    if frame.size < _HEADER + 4 * blocks:
        return UNDECODED
    # A row that a block cuts waits before the place of the next block, which so begins the same cache line always.
    place = -(-features // 64) * 64
    memory = np.empty(place + block // itemsize, layer_peak.dtype)
    held = np.empty(_FIRST, np.uint8)
    row, waiting, nonfinite = 0, 0, 0
    for k in range(blocks):
        start, size = _number(frame, _HEADER + 4 * k), min(block, nbytes - k * block)
        if start < _HEADER + 4 * blocks or start > frame.size - 4:
            return UNDECODED
        # a frame of the last block, if that is shorter, says so by a block's size that it does not fill
        if _decode(frame, start, size, block, held, memory[place:]) != size:
            return UNDECODED
        first, values = place - waiting, waiting + size // itemsize
        n = values // features
        if n:
            rows = memory[first : first + n * features].reshape(n, features)
            nonfinite += reduce_rows(
                rows,
                thresholds,
                level_of,
                mask,
                infinity,
                counts,
                exactly,
                layer_peak,
                position_peak[row : row + n],
            )
        row += n
        waiting = values - n * features
        memory[place - waiting : place] = memory[first + n * features : first + values]
    return nonfinite


@njit(nogil=True, cache=True, error_model="numpy")
def total_hits(counts: Array, exactly: Array) -> None:
    """Add to ``counts`` what ``reduce_rows`` counted in its other way: (threshold, feature) hits at each threshold."""
    thresholds, features = counts.shape
    above = np.zeros(features, counts.dtype)
    for k in range(thresholds - 1, -1, -1):
        _add(exactly[k + 1], above)
        _add(above, counts[k])
