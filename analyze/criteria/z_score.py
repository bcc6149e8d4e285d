"""Features whose standard deviation over tokens is more than three deviations above the mean feature's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.channels import Channels

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CRITERION", "LEAST", "z_scores"]

LEAST = 3

Doubles = npt.NDArray[np.float64]


def z_scores(deviations: Doubles) -> Any:
    """``(std_j - mean_j std) / std_j(std)`` of standard deviations (..., feature); NaN where all are equal.

    The deviation of the deviations is over h - 1, as torch's and so bitsandbytes'; no z is above (h - 1) / sqrt(h).

    >>> z_scores(np.array([1.0, 1.0, 1.0, 5.0])).tolist()
    [-0.5, -0.5, -0.5, 1.5]
    """
    if deviations.shape[-1] < 2:
        return np.full(deviations.shape, np.nan)
    apart = deviations - deviations.mean(axis=-1, keepdims=True)
    spread = np.sqrt((apart * apart).sum(axis=-1, keepdims=True) / (deviations.shape[-1] - 1))
    return apart / np.where(spread > 0, spread, np.nan)


def evaluate(channels: xr.Dataset) -> xr.Dataset:
    """``deviation`` and ``z`` (tensor, layer, feature), ``outlier`` where z is more than 3; their ``count``."""
    import xarray as xr

    count = channels["count"]
    deviation = np.sqrt(channels.m2 / (count - 1).where(count > 1))
    z = xr.apply_ufunc(z_scores, deviation, input_core_dims=[["feature"]], output_core_dims=[["feature"]])
    outlier = z > LEAST
    return xr.Dataset(
        {
            "deviation": deviation,
            "z": z,
            "outlier": outlier,
            "count": outlier.sum("feature"),
            "largest": z.max("feature"),
        }
    )


CRITERION = Criterion(
    name="z-score",
    title="z-score of the standard deviation",
    formula="(std_j - mean_j std) / std_j(std) > 3, std over all tokens, both std over n - 1",
    source="OutlierTracer of bitsandbytes",
    kinds=("norm output",),
    statistic=Channels,
    evaluate=evaluate,
    outliers="outlier",
    quantities=(
        Quantity("count", "Flagged", "sum"),
        Quantity("largest", "Largest z", "largest", where=True),
    ),
)
