"""Criteria written out from docs/definitions.md, a value at a time, without anything of the package.

Tensors are (token, feature) lists of floats; sums are exact (fractions), and become floats at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

Tensor = Sequence[Sequence[float]]


def finite(values: Any) -> list[Fraction]:
    return [Fraction(v) for v in values if math.isfinite(v)]


def columns(x: Tensor) -> list[list[float]]:
    return [[row[j] for row in x] for j in range(len(x[0]))]


def median(values: Sequence[Any]) -> Any:
    """Of what is not NaN."""
    ordered = sorted(v for v in values if not math.isnan(v))
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    low, high = ordered[middle - 1], ordered[middle]
    if math.isinf(high):
        return high
    return (Fraction(low) + Fraction(high)) / 2


def mean(values: Sequence[Any]) -> Any:
    return sum(values) / len(values)


def mean_squares(x: Tensor) -> list[Fraction]:
    return [mean([v * v for v in finite(column)]) for column in columns(x)]


def variances(x: Tensor, less: int = 0) -> list[Fraction]:
    found = []
    for column in columns(x):
        values = finite(column)
        mu = mean(values)
        found.append(sum((v - mu) ** 2 for v in values) / (len(values) - less))
    return found


def kurtosis(x: Tensor) -> float:
    s2 = mean_squares(x)
    if not any(s2):
        return math.nan
    return float(mean([s * s for s in s2]) / mean(s2) ** 2)


def systematic_channels(x: Tensor) -> list[int]:
    rms = [math.sqrt(s) for s in mean_squares(x)]
    return [j for j, r in enumerate(rms) if r > 6 * float(median(rms))]


def variance_outliers(x: Tensor) -> list[int]:
    var = variances(x)
    return [j for j, v in enumerate(var) if v > 0 and v >= 5 * mean(var)]


def z_scores(x: Tensor) -> list[float]:
    std = [math.sqrt(v) for v in variances(x, less=1)]
    mu = mean(std)
    spread = math.sqrt(sum((s - mu) ** 2 for s in std) / (len(std) - 1))
    return [(s - mu) / spread if spread else math.nan for s in std]


def max_median(x: Tensor) -> float:
    ratios = [float(max(abs(v) for v in row)) / float(median([abs(v) for v in row])) for row in x]
    return mean(ratios)


def infinity_norm(x: Tensor) -> float:
    return max(abs(v) for row in x for v in row if not math.isnan(v))


def value_kurtosis(x: Tensor) -> float:
    values = finite(v for row in x for v in row)
    mu = mean(values)
    variance = sum((v - mu) ** 2 for v in values) / (len(values) - 1)
    return float(mean([(v - mu) ** 4 for v in values]) / (variance**2 + Fraction("1e-6")))


def massive(x: Tensor, per_token: bool) -> list[tuple[int, int]]:
    whole = median([abs(v) for row in x for v in row])
    found = []
    for t, row in enumerate(x):
        m = median([abs(v) for v in row]) if per_token else whole
        for j, v in enumerate(row):
            if math.isnan(v) or not abs(v) > 100:
                continue
            reached = math.isinf(v) or (not math.isinf(m) and abs(Fraction(v)) >= 1000 * Fraction(m))
            if reached:
                found.append((t, j))
    return found


def top(x: Tensor) -> list[float]:
    return sorted((abs(v) for row in x for v in row if not math.isnan(v)), reverse=True)[:3]


def super_experts(largest: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """``largest``: by layer and expert; NaN where no token went there."""
    known = sorted(v for row in largest for v in row if not math.isnan(v))
    place = Fraction(995, 1000) * (len(known) - 1)
    low = math.floor(place)
    high = min(low + 1, len(known) - 1)
    limit = float(Fraction(known[low]) + (place - low) * (Fraction(known[high]) - Fraction(known[low])))
    return [
        (layer, expert)
        for layer, row in enumerate(largest)
        for expert, a in enumerate(row)
        if a > limit and a > known[-1] / 10 and layer < Fraction(3, 4) * len(largest)
    ]
