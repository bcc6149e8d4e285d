"""Massive activations: a handful of values of the residual stream, thousands of times the median."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.medians import middle_of_all, middle_of_rows
from analyze.statistics.statistic import Partial
from analyze.statistics.tensors import TensorStatistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ABOVE", "CRITERION", "TIMES", "MassiveActivations", "massive"]

ABOVE = 100
TIMES = 1000

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def massive(values: Floats, low: Any, high: Any) -> npt.NDArray[np.bool_]:
    """Where ``|x| > 100`` and ``|x| >= 1000 * median``, the median being the mean of ``low`` and ``high``.

    ``low`` and ``high`` are the two middle magnitudes of the tensor, or (row,) of each row. Compared in real
    arithmetic: what float64 cannot tell apart for certain is looked at as fractions. NaN is none, an infinity is one.

    >>> massive(np.array([[0.25, 250.0, -101.0]], np.float32), 0.25, 0.25).tolist()
    [[False, True, False]]
    """
    found = np.zeros(values.shape, np.bool_)
    places = np.nonzero(np.abs(values) > ABOVE)
    middle = (np.broadcast_to(np.asarray(end, np.float64), values.shape[:1])[places[0]] for end in (low, high))
    found[places] = _reach(np.abs(values[places]).astype(np.float64), *middle)
    return found


def _reach(candidates: Doubles, low: Any, high: Any) -> npt.NDArray[np.bool_]:
    """Whether each magnitude is at least 1000 times the mean of ``low`` and ``high``, one or (n,): (n,)."""
    lows, highs = (np.broadcast_to(np.asarray(end, np.float64), candidates.shape) for end in (low, high))
    limits = (lows + highs) * (TIMES / 2)
    passed: npt.NDArray[np.bool_] = candidates >= limits
    with np.errstate(invalid="ignore"):  # two infinities, which are compared as they are
        near = np.abs(candidates - limits) <= 1e-9 * limits
    for i in np.flatnonzero(near & np.isfinite(limits)):
        passed[i] = Fraction(candidates[i]) >= (Fraction(lows[i]) + Fraction(highs[i])) * Fraction(TIMES, 2)
    return passed


@dataclass(frozen=True)
class MassiveActivations(TensorStatistic):
    """Massive activations by the median of the whole (position, feature) tensor of a sequence, and by each token's.

    Result, over (tensor, layer, sequence): for both medians ``values``, ``tokens`` that have one, and, also over
    feature, ``features``, how many tokens have it there; ``median`` of the tensor and ``largest`` magnitude.
    """

    name: ClassVar[str] = "massive-activations"
    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer", "sequence"})
    in_parts: ClassVar[bool] = False
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "values": (),
            "tokens": (),
            "features": ("feature",),
            "values_token_median": (),
            "tokens_token_median": (),
            "features_token_median": ("feature",),
            "median": (),
            "largest": (),
        }
    )

    def of(self, values: Floats) -> Partial:
        magnitudes = np.abs(values)
        largest = magnitudes.max(initial=-1)
        if np.isnan(largest):
            largest = magnitudes.max(initial=-1, where=~np.isnan(magnitudes))
        places = np.nonzero(magnitudes > ABOVE) if largest > ABOVE else (np.zeros(0, np.intp),) * 2
        of_all = middle_of_all(values)
        own, row = np.unique(places[0], return_inverse=True)  # the medians of other tokens decide nothing
        of_rows = middle_of_rows(values[own])
        partial: Partial = {
            "median": np.array((of_all[0] + of_all[1]) / 2),
            "largest": np.array(np.nan if largest < 0 else largest, np.float64),
        }
        candidates = magnitudes[places].astype(np.float64)
        for end, low, high in (("", *of_all), ("_token_median", *(middle[row] for middle in of_rows))):
            passed = _reach(candidates, low, high)
            rows, features = (place[passed] for place in places)
            partial |= {
                f"values{end}": np.array(rows.size, np.int64),
                f"tokens{end}": np.array(np.unique(rows).size, np.int64),
                f"features{end}": np.bincount(features, minlength=values.shape[1]).astype(np.int32),
            }
        return partial

    def together(self, first: Partial, second: Partial) -> Partial:
        raise AssertionError("partials are kept by sequence, each of one piece")


def evaluate(found: xr.Dataset) -> xr.Dataset:
    """As above, summed over sequences; ``median`` their mean, ``largest`` their largest; ``outlier`` by any of both
    medians, (tensor, layer, feature)."""
    counts = [name for name in found.data_vars if name not in ("median", "largest")]
    summed = found[counts].sum("sequence")
    return summed.assign(
        median=found["median"].mean("sequence"),
        largest=found["largest"].max("sequence"),
        outlier=(summed.features > 0) | (summed.features_token_median > 0),
    )


CRITERION = Criterion(
    name="massive",
    title="Massive activations",
    formula=(
        "|x| > 100 and |x| >= 1000 * median |x|, the median of the whole (position, feature) tensor of a sequence "
        "(values, tokens), and of the token alone (by token median); tokens: those with at least one such value"
    ),
    source="arXiv:2402.17762",
    kinds=("residual",),
    statistic=MassiveActivations,
    evaluate=evaluate,
    outliers="outlier",
    quantities=(
        Quantity("values", "Values", "sum"),
        Quantity("tokens", "Tokens", "sum"),
        Quantity("values_token_median", "Values by token median", "sum"),
        Quantity("tokens_token_median", "Tokens by token median", "sum"),
        Quantity("median", "Median", "mean"),
        Quantity("largest", "Largest", "largest", where=True),
    ),
)
