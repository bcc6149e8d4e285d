"""Features that vary over tokens at least five times as much as the mean feature does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.channels import Channels

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CRITERION", "TIMES", "times_mean"]

TIMES = 5

Doubles = npt.NDArray[np.float64]


def times_mean(variance: Doubles) -> Any:
    """Each feature's variance over the mean feature's, (..., feature); NaN where none varies.

    The ratio is the same whether variances are over n or n - 1.

    >>> times_mean(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 7.0])).tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5, 3.5]
    """
    mean = variance.mean(axis=-1, keepdims=True)
    return variance / np.where(mean > 0, mean, np.nan)


def evaluate(channels: xr.Dataset) -> xr.Dataset:
    """``variance`` and ``times_mean`` (tensor, layer, feature), ``outlier`` where at least 5; their ``count``."""
    import xarray as xr

    variance = channels.variance
    ratio = xr.apply_ufunc(times_mean, variance, input_core_dims=[["feature"]], output_core_dims=[["feature"]])
    outlier = ratio >= TIMES
    return xr.Dataset(
        {
            "variance": variance,
            "times_mean": ratio,
            "outlier": outlier,
            "count": outlier.sum("feature"),
            "largest": ratio.max("feature"),
        }
    )


CRITERION = Criterion(
    name="variance",
    title="Variance outliers",
    formula="Var_t x_tj >= 5 * mean_j Var_t x_tj over all tokens; none where nothing varies",
    source="arXiv:2310.17715",
    kinds=("norm output",),
    statistic=Channels,
    evaluate=evaluate,
    outliers="outlier",
    quantities=(
        Quantity("count", "Flagged", "sum"),
        Quantity("largest", "Largest variance / mean", "largest", where=True),
    ),
)
