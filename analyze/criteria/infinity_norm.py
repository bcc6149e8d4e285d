"""Infinity norm and kurtosis of a whole tensor, a sequence at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.statistic import Partial
from analyze.statistics.tensors import TensorStatistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CRITERION", "SequenceKurtosis", "value_kurtosis"]

_ROWS = 256

Floats = npt.NDArray[np.float32]


def value_kurtosis(values: Floats) -> float:
    """``mean((x - mu)^4) / (s^4 + 1e-6)`` of all finite values, s^2 over n - 1; not excess, 3 of a normal distribution.

    In float64, two passes; NaN of fewer than two values. Appendix of arXiv:2306.12929, as its code has it.

    >>> round(value_kurtosis(np.array([[0, 0, 0, 4]], np.float32)), 6)  # mu 1, s^2 4: 21 / (16 + 1e-6)
    1.3125
    """
    finite = np.isfinite(values)
    count = int(np.count_nonzero(finite))
    if count < 2:
        return float("nan")
    blocks = [slice(start, start + _ROWS) for start in range(0, values.shape[0], _ROWS)]
    mean = sum(float(np.sum(values[b], dtype=np.float64, where=finite[b])) for b in blocks) / count
    second = fourth = 0.0
    for b in blocks:
        apart = values[b].astype(np.float64) - mean
        square = np.where(finite[b], apart * apart, 0.0)
        second += float(square.sum())
        np.multiply(square, square, out=square)
        fourth += float(square.sum())
    return (fourth / count) / ((second / (count - 1)) ** 2 + 1e-6)


@dataclass(frozen=True)
class SequenceKurtosis(TensorStatistic):
    """Result, over (tensor, layer, sequence): ``largest`` magnitude, infinite where a value is, and ``kurtosis``."""

    name: ClassVar[str] = "sequence-kurtosis"
    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer", "sequence"})
    in_parts: ClassVar[bool] = False
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({"largest": (), "kurtosis": ()})

    def of(self, values: Floats) -> Partial:
        known = ~np.isnan(values)
        largest = max(values.max(initial=0, where=known), -values.min(initial=0, where=known))
        return {
            "largest": np.array(largest if known.any() else np.nan, np.float64),
            "kurtosis": np.array(value_kurtosis(values)),
        }

    def together(self, first: Partial, second: Partial) -> Partial:
        raise AssertionError("partials are kept by sequence, each of one piece")


def evaluate(found: xr.Dataset) -> xr.Dataset:
    """``largest`` and ``kurtosis`` by sequence, and over sequences ``mean_largest``, ``overall_largest`` and
    ``mean_kurtosis`` (tensor, layer)."""
    return found.assign(
        mean_largest=found.largest.mean("sequence"),
        overall_largest=found.largest.max("sequence"),
        mean_kurtosis=found.kurtosis.mean("sequence"),
    )


CRITERION = Criterion(
    name="infinity-norm",
    title="Infinity norm and kurtosis of values",
    formula=(
        "of each sequence, over its T * h values: max |x|, and mean((x - mu)^4) / (s^4 + 1e-6) with s^2 over n - 1 "
        "(not excess); means over sequences"
    ),
    source="arXiv:2306.12929",
    kinds=("residual", "norm output"),
    statistic=SequenceKurtosis,
    evaluate=evaluate,
    quantities=(
        Quantity("mean_largest", "Infinity norm", "mean"),
        Quantity("overall_largest", "Largest", "largest", where=True),
        Quantity("mean_kurtosis", "Kurtosis", "mean"),
        Quantity("mean_kurtosis", "Largest kurtosis", "largest", where=True),
    ),
)
