"""How far a token's largest magnitude is above its median one, the mean over tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.medians import middle_of_rows
from analyze.statistics.statistic import Partial
from analyze.statistics.tensors import TensorStatistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CRITERION", "MaxMedian", "max_median_ratios"]

Floats = npt.NDArray[np.float32]


def max_median_ratios(values: Floats) -> Any:
    """``max_j |x_tj| / median_j |x_tj|`` of each row, float64 (row,); infinite, or NaN of zeros, where the median is 0.

    >>> max_median_ratios(np.array([[1, -2, 4, 30], [0, 0, 0, 5]], np.float32)).tolist()
    [10.0, inf]
    """
    low, high = middle_of_rows(values)
    median = (low.astype(np.float64) + high) / 2
    magnitudes = np.abs(values)
    magnitudes[np.isnan(magnitudes)] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return magnitudes.max(axis=1, initial=0).astype(np.float64) / median


@dataclass(frozen=True)
class MaxMedian(TensorStatistic):
    """Result, over (tensor, layer): ``sum`` of the tokens' ratios, ``tokens``, and ``not_finite``, those whose
    ratio, and with it the mean, is not finite: their median is 0, or a value is infinite."""

    name: ClassVar[str] = "max-median"
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({"sum": (), "tokens": (), "not_finite": ()})

    def of(self, values: Floats) -> Partial:
        ratios = max_median_ratios(values)
        return {
            "sum": ratios.sum(),
            "tokens": np.array(ratios.size, np.int64),
            "not_finite": np.array(np.count_nonzero(~np.isfinite(ratios)), np.int64),
        }

    def together(self, first: Partial, second: Partial) -> Partial:
        return {name: first[name] + second[name] for name in first}


def evaluate(found: xr.Dataset) -> xr.Dataset:
    """``ratio``, ``tokens`` and ``not_finite`` (tensor, layer)."""
    ratio = found["sum"] / found.tokens.where(found.tokens > 0)
    return found[["tokens", "not_finite"]].assign(ratio=ratio)


CRITERION = Criterion(
    name="max-median",
    title="Max-median ratio",
    formula="mean_t( max_j |x_tj| / median_j |x_tj| ) over all tokens; infinite if a token's median is 0",
    source="arXiv:2405.19279",
    kinds=("residual", "norm output"),
    statistic=MaxMedian,
    evaluate=evaluate,
    quantities=(
        Quantity("ratio", "Ratio", "mean"),
        Quantity("ratio", "Largest ratio", "largest", where=True),
        Quantity("not_finite", "Tokens not finite", "sum"),
    ),
)
