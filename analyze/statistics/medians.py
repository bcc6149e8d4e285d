"""Exact medians of magnitudes: the two middle values, from histograms of bit patterns or by selection."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["middle_of_all", "middle_of_rows", "order_values"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_HALF = 16
_INFINITY = 0x7F800000


def order_values(values: Floats, ranks: list[int]) -> list[float]:
    """The values at ``ranks``, from 0 for the smallest, among the magnitudes that are not NaN: exact.

    Counts sign-cleared patterns in bins of their high 16 bits, and the low 16 within the bins that hold a rank: two
    passes and 65,536 counters however large ``values`` is, where sorting would copy it.

    >>> order_values(np.array([[-3, 1], [np.nan, 2]], np.float32), [0, 2])
    [1.0, 3.0]
    """
    patterns = np.ascontiguousarray(values).reshape(-1).view(np.uint32) & np.uint32(0x7FFFFFFF)
    high = (patterns >> np.uint32(_HALF)).astype(np.uint16)
    counts = np.bincount(high, minlength=2**_HALF)
    counts[(_INFINITY >> _HALF) + 1 :] = 0
    infinite_bin = patterns[high == (_INFINITY >> _HALF)]  # with infinity, the NaN whose high mantissa bits are 0
    counts[_INFINITY >> _HALF] = np.count_nonzero(infinite_bin == _INFINITY)
    below = np.concatenate([[0], np.cumsum(counts)])
    found, inside = [], {}
    for rank in ranks:
        place = int(np.searchsorted(below, rank, side="right")) - 1
        if place not in inside:
            low = (patterns[high == place] & np.uint32(0xFFFF)).astype(np.uint16)
            inside[place] = np.cumsum(np.bincount(low, minlength=2**_HALF))
        pattern = (place << _HALF) + int(np.searchsorted(inside[place], rank - int(below[place]), side="right"))
        found.append(float(np.array(pattern, np.uint32).view(np.float32)))
    return found


def middle_of_all(values: Floats) -> tuple[float, float]:
    """The two middle magnitudes of all values that are not NaN, twice the same of an odd number; NaN of none.

    Their mean is the median.

    >>> middle_of_all(np.array([[4, -1], [2, 9]], np.float32))
    (2.0, 4.0)
    """
    count = int(values.size - np.count_nonzero(np.isnan(values)))
    if count == 0:
        return float("nan"), float("nan")
    low, high = order_values(values, [(count - 1) // 2, count // 2])
    return low, high


def middle_of_rows(values: Floats) -> tuple[Floats, Floats]:
    """The two middle magnitudes of each row, NaN left out: two (row,) float32; NaN where a row has nothing else.

    >>> [middle.tolist() for middle in middle_of_rows(np.array([[4, -1, 2, 9], [1, 1, np.nan, -7]], np.float32))]
    [[2.0, 1.0], [4.0, 1.0]]
    """
    rows, features = values.shape
    ordered = np.abs(values)
    kth = sorted({(features - 1) // 2, features // 2})
    if rows and features:
        ordered.partition(kth, axis=1)
    low, high = ordered[:, kth[0]].copy(), ordered[:, kth[-1]].copy()
    for row in np.flatnonzero(np.isnan(values).any(axis=1)):
        known = np.sort(np.abs(values[row][~np.isnan(values[row])]))
        low[row], high[row] = (known[(known.size - 1) // 2], known[known.size // 2]) if known.size else (np.nan, np.nan)
    return low, high
