"""How unequal the features' sizes are: 1 where all have one RMS, h where a single one is not zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.channels import Channels

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CRITERION", "rms_kurtosis"]

Doubles = npt.NDArray[np.float64]


def rms_kurtosis(mean_square: Doubles) -> Any:
    """``mean_j s_j^4 / (mean_j s_j^2)^2`` of mean squares ``s_j^2`` (..., feature): (...), NaN where all are 0.

    From 1 to h. Section 2 of arXiv:2405.19279.

    >>> float(rms_kurtosis(np.array([1.0, 1.0, 1.0, 5.0])))
    1.75
    """
    mean = mean_square.mean(axis=-1)  # of float32 values: no power of 4 leaves float64
    return np.mean(mean_square * mean_square, axis=-1) / np.where(mean > 0, mean, np.nan) ** 2


def evaluate(channels: xr.Dataset) -> xr.Dataset:
    """``kurtosis`` (tensor, layer), of all tokens together."""
    import xarray as xr

    found: xr.DataArray = xr.apply_ufunc(rms_kurtosis, channels.mean_square, input_core_dims=[["feature"]])
    return found.to_dataset(name="kurtosis")


CRITERION = Criterion(
    name="kurtosis",
    title="Kurtosis of feature RMS",
    formula="s_j = sqrt(mean_t x_tj^2) over all tokens; mean_j s_j^4 / (mean_j s_j^2)^2, from 1 to h",
    source="arXiv:2405.19279",
    kinds=("residual", "norm output"),
    statistic=Channels,
    evaluate=evaluate,
    quantities=(
        Quantity("kurtosis", "Kurtosis", "mean"),
        Quantity("kurtosis", "Largest kurtosis", "largest", where=True),
    ),
)
