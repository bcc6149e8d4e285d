"""Exact order statistics of one feature's signed values over a whole store, from histograms of bit patterns."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.progress import Progress
from analyze.resources import Resources
from analyze.statistics.work import Excluded
from analyze.thresholds.plan import Plan
from analyze.thresholds.slices import summed_over_slices
from schemas.bits import Encoding, magnitude_value
from schemas.run import Run

__all__ = ["Quartiles", "signed_order_values", "virtual_ranks"]

Counts = npt.NDArray[np.int64]
Patterns = npt.NDArray[Any]
Value = Fraction | float
"""Exact where finite; an infinity is a float."""

_TOGETHER = 16
"""Histograms made in one pass: 16 of 65,536 bins are 8 MiB for each chunk in flight."""


@dataclass(frozen=True)
class Quartiles:
    """First quartile, median and third quartile; NaN only half way between two opposite infinities."""

    first: float
    median: float
    third: float

    @staticmethod
    def between(*ends: tuple[Value, Value, Fraction]) -> Quartiles:
        """From three (lower value, upper value, weight of the upper), by linear interpolation."""
        first, median, third = (_interpolated(*end) for end in ends)
        return Quartiles(first, median, third)


def _interpolated(low: Value, high: Value, weight: Fraction) -> float:
    if weight == 0 or low == high:
        return float(low)
    if isinstance(low, Fraction) and isinstance(high, Fraction):
        return float(low + (high - low) * weight)
    return float(low) + float(high)  # an infinity with anything finite is itself; two opposite ones are NaN


def virtual_ranks(n: int) -> tuple[tuple[int, int, Fraction], ...]:
    """(lower rank, upper rank, weight of the upper) of the quartiles of n sorted values, as NumPy's 'linear'.

    >>> [(low, high, str(weight)) for low, high, weight in virtual_ranks(4)]
    [(0, 1, '3/4'), (1, 2, '1/2'), (2, 3, '1/4')]
    """
    found = []
    for quarter in (1, 2, 3):
        low, weight = divmod(Fraction((n - 1) * quarter, 4), 1)
        found.append((int(low), min(int(low) + 1, n - 1), weight))
    return tuple(found)


def signed_order_values(
    run: Run,
    plan: Plan,
    wanted: Mapping[int, Set[int]],
    progress: Progress,
    resources: Resources,
    excluded: list[Excluded],
) -> dict[tuple[int, int], Value]:
    """The value at each wanted rank, from 0 for the lowest, among a feature's hits at the smallest threshold.

    ``wanted``: ranks by feature. Signed patterns are counted in bins of their high 16 bits, which for 16-bit
    encodings is exact in one pass; for float32 a second pass counts the low bits within the bins that hold a wanted
    rank. Memory does not grow with the store.
    """
    shift = 8 * plan.encoding.itemsize - 16
    lowest = -(plan.encoding.infinity >> shift) - 1
    bins = 2 * -lowest + 1
    groups = [(feature, lowest, lowest + bins) for feature in sorted(wanted)]
    coarse = _histograms(run, plan, groups, shift, progress, resources, excluded)
    found: dict[tuple[int, int], int] = {}
    inside: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (feature, *_), counts in zip(groups, coarse, strict=True):
        for rank, (place, left) in _locate(counts, wanted[feature]).items():
            found[feature, rank] = place + lowest
            inside.setdefault((feature, place + lowest), []).append((rank, left))
    if shift:
        fine_groups = [(feature, bin_ << shift, (bin_ + 1) << shift) for feature, bin_ in sorted(inside)]
        fine = _histograms(run, plan, fine_groups, 0, progress, resources, excluded)
        for (feature, start, _), counts in zip(fine_groups, fine, strict=True):
            for rank, left in inside[feature, start >> shift]:
                found[feature, rank] = start + next(iter(_locate(counts, {left}).values()))[0]
    return {key: _value(signed, plan.encoding) for key, signed in found.items()}


def _locate(counts: Counts, ranks: Set[int]) -> dict[int, tuple[int, int]]:
    """rank -> (bin that holds it, rank within that bin)."""
    below = np.concatenate([[0], np.cumsum(counts)])
    places = {rank: int(np.searchsorted(below, rank, side="right")) - 1 for rank in ranks}
    return {rank: (place, rank - int(below[place])) for rank, place in places.items()}


def _histograms(
    run: Run,
    plan: Plan,
    groups: list[tuple[int, int, int]],
    shift: int,
    progress: Progress,
    resources: Resources,
    excluded: list[Excluded],
) -> list[Counts]:
    """For each (feature, start, stop): counts of its shifted signed patterns of hits in [start, stop)."""
    found: list[Counts] = []
    for first in range(0, len(groups), _TOGETHER):
        some = groups[first : first + _TOGETHER]
        sizes = [stop - start for _, start, stop in some]
        total = np.zeros(sum(sizes), np.int64)

        def kernel(chunk: Patterns, some: list[tuple[int, int, int]] = some) -> Counts:
            return np.concatenate(
                [_histogram(chunk[:, feature], plan, shift, start, stop) for feature, start, stop in some]
            )

        for _, counts in summed_over_slices(run, plan, kernel, total.size, progress, "quartiles", resources, excluded):
            total += counts
        found += np.split(total, np.cumsum(sizes)[:-1])
    return found


def _histogram(patterns: Patterns, plan: Plan, shift: int, start: int, stop: int) -> Counts:
    sign, infinity = plan.encoding.sign_mask, plan.encoding.infinity
    magnitude = patterns.astype(np.int64) & (sign - 1)
    signed = np.where(patterns >= patterns.dtype.type(sign), -magnitude, magnitude)
    bins = signed[(magnitude >= plan.thresholds[0]) & (magnitude <= infinity)] >> shift
    counts: Counts = np.bincount(bins[(bins >= start) & (bins < stop)] - start, minlength=stop - start)
    return counts


def _value(signed: int, encoding: Encoding) -> Value:
    magnitude = abs(signed)
    exact: Value = float("inf") if magnitude == encoding.infinity else magnitude_value(magnitude, encoding)
    return -exact if signed < 0 else exact
