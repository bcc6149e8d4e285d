"""Channels whose RMS stands out from the median channel's: scale-free, whatever the norm's gain or the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.channels import Channels

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CRITERION", "TIMES", "times_median"]

TIMES = 6
"""A channel is systematic from more than this many median RMS on."""

Doubles = npt.NDArray[np.float64]


def times_median(rms: Doubles) -> Any:
    """Each channel's RMS over the median channel's, (..., feature); infinite where that is 0 and this is not.

    >>> times_median(np.array([1.0, 2.0, 3.0, 26.0])).tolist()
    [0.4, 0.8, 1.2, 10.4]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return rms / np.median(rms, axis=-1, keepdims=True)


def evaluate(channels: xr.Dataset) -> xr.Dataset:
    """``rms`` and ``times_median`` (tensor, layer, feature), ``outlier`` where more than 6; their ``count``."""
    import xarray as xr

    rms = np.sqrt(channels.mean_square)
    ratio = xr.apply_ufunc(times_median, rms, input_core_dims=[["feature"]], output_core_dims=[["feature"]])
    outlier = ratio > TIMES
    return xr.Dataset(
        {
            "rms": rms,
            "times_median": ratio,
            "outlier": outlier,
            "count": outlier.sum("feature"),
            "largest": ratio.max("feature"),
        }
    )


CRITERION = Criterion(
    name="systematic-channels",
    title="Systematic channels",
    formula="RMS of channel j over all tokens > 6 * the median channel's RMS",
    source="scale-free counterpart of an absolute magnitude, docs/definitions.md",
    kinds=("norm output",),
    statistic=Channels,
    evaluate=evaluate,
    outliers="outlier",
    flagged="channels",
    quantities=(
        Quantity("count", "Flagged", "sum"),
        Quantity("largest", "Largest RMS / median", "largest", where=True),
    ),
)
