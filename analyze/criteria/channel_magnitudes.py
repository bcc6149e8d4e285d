"""What SmoothQuant and AWQ scale channels by: the largest and the mean magnitude of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.channels import Channels

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["CRITERION"]


def evaluate(channels: xr.Dataset) -> xr.Dataset:
    """``largest`` and ``mean`` magnitude (tensor, layer, feature); of each layer ``channel_max`` and ``channel_mean``,
    the greatest of them, with its channel (``_at``), and over the median channel's (``_over_median``)."""
    count = channels["count"]
    largest = channels.largest.where((count > 0) | np.isinf(channels.largest))  # infinities are not counted
    mean = channels.magnitudes / count.where(count > 0)
    variables: dict[Hashable, xr.DataArray] = {}
    for name, by_channel in (("largest", largest), ("mean", mean)):
        greatest, median = by_channel.max("feature"), by_channel.median("feature")
        short = "channel_max" if name == "largest" else "channel_mean"
        variables |= {
            name: by_channel,
            short: greatest,
            f"{short}_at": by_channel.fillna(-1.0).argmax("feature"),
            f"{short}_over_median": greatest / median.where((median > 0) & np.isfinite(median)),
        }
    return xr.Dataset(variables)


CRITERION = Criterion(
    name="channel-magnitudes",
    title="Channel magnitudes (SmoothQuant, AWQ)",
    formula="max_t |x_tj| (SmoothQuant) and mean_t |x_tj| (AWQ) of each channel over all tokens; over the median's",
    source="arXiv:2211.10438, arXiv:2306.00978",
    kinds=("norm output",),
    statistic=Channels,
    evaluate=evaluate,
    quantities=(
        Quantity("channel_max", "Largest channel max", "largest", where=True),
        Quantity("channel_max_over_median", "over median", "mean"),
        Quantity("channel_mean", "Largest channel mean", "largest", where=True),
        Quantity("channel_mean_over_median", "over median mean", "mean"),
    ),
)
