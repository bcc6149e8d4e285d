"""Super experts: the few whose outputs tower over those of all others, early in the model."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from schemas.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

    from analyze.statistics.selection import Chosen
    from schemas.run import Run

__all__ = ["CRITERION", "super_experts"]

PERCENTILE = 99.5
OF_LARGEST = 10
FIRST_LAYERS = Fraction(3, 4)

Doubles = npt.NDArray[np.float64]


def super_experts(largest: Doubles, layers: int) -> tuple[npt.NDArray[np.bool_], float]:
    """Which of (layer, expert) maxima are super experts', and the 99.5th percentile that they exceed.

    ``a > P99.5(all)``, ``a > max(all) / 10`` and the layer, counted from 0, in the first 75% of ``layers``. Experts
    that no token went to are NaN and left out. Percentile: linear interpolation. Section 3 of arXiv:2507.23279.

    >>> found, limit = super_experts(np.array([[1.0, 50.0], [3.0, 2.0], [1.0, 4.0], [1.0, 60.0]]), 4)
    >>> np.argwhere(found).tolist(), round(limit, 2)
    ([], 59.65)
    """
    known = largest[~np.isnan(largest)]
    if not known.size:
        return np.zeros(largest.shape, np.bool_), float("nan")
    limit = float(np.percentile(known, PERCENTILE))
    early = np.arange(largest.shape[0]) * FIRST_LAYERS.denominator < FIRST_LAYERS.numerator * layers
    found = (largest > limit) & (largest * OF_LARGEST > known.max()) & early[:, np.newaxis]
    return found, limit


def read(run: Run, chosen: Chosen) -> xr.Dataset:
    """``largest`` and ``super`` (layer, expert) over the chosen sequences, ``experts`` and ``greatest`` (layer), and
    the ``percentile`` that was to be exceeded."""
    import xarray as xr

    if "expert_peak" not in run:
        model, routing = run.info.model, run.info.routing
        if not model.experts:
            why = "the model has no experts"
        else:
            why = (routing.peak_absent or routing.absent if routing else None) or "it was captured by an older version"
        raise StoreError(f"super-experts reads expert_peak, which {run.path} has not: {why}")
    peaks = np.stack([run.read("expert_peak", (slice(None), sequence)) for sequence in chosen.sequences])
    largest = np.fmax.reduce(peaks.astype(np.float64), axis=0)
    found, limit = super_experts(largest, run.dimensions.layers)
    layers = np.array(chosen.layers)
    return xr.Dataset(
        {
            "largest": (("layer", "expert"), largest[layers]),
            "super": (("layer", "expert"), found[layers]),
            "experts": ("layer", found[layers].sum(axis=1)),
            "greatest": ("layer", np.fmax.reduce(largest[layers], axis=1)),
            "percentile": ((), limit),
        },
        {"layer": layers, "expert": np.arange(largest.shape[1])},
    )


CRITERION = Criterion(
    name="super-experts",
    title="Super experts",
    formula=(
        "a[l, e] = max |output of expert e of layer l's down-projection|; a > P99.5(all), a > max(all) / 10, and "
        "l among the first 75% of the layers"
    ),
    source="arXiv:2507.23279",
    read=read,
    quantities=(
        Quantity("experts", "Super experts", "sum"),
        Quantity("greatest", "Largest output", "largest", where=True),
    ),
    outliers="super",
    flagged="layer:expert",
)
