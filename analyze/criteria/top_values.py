"""The three largest magnitudes and the median one of each layer: the curve that shows massive activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.evaluation.criterion import Criterion, Quantity
from analyze.statistics.medians import middle_of_all
from analyze.statistics.statistic import Partial
from analyze.statistics.tensors import TensorStatistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CRITERION", "TopValues", "three_largest"]

Floats = npt.NDArray[np.float32]


def three_largest(values: Floats) -> npt.NDArray[np.float64]:
    """The three largest magnitudes, NaN left out, the largest first: (3,), NaN where there are not so many.

    >>> three_largest(np.array([[1, -7, np.nan], [3, 7, 2]], np.float32)).tolist()
    [7.0, 7.0, 3.0]
    """
    magnitudes = np.abs(values).reshape(-1)
    magnitudes[np.isnan(magnitudes)] = -1
    if magnitudes.size > 3:
        magnitudes = np.partition(magnitudes, magnitudes.size - 3)[-3:]
    found = np.full(3, np.nan)
    known = np.sort(magnitudes[magnitudes >= 0])[::-1]
    found[: known.size] = known
    return found


@dataclass(frozen=True)
class TopValues(TensorStatistic):
    """Result, over (tensor, layer, sequence): ``top`` (also over place, 3) and ``median`` of the magnitudes."""

    name: ClassVar[str] = "top-values"
    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer", "sequence"})
    in_parts: ClassVar[bool] = False
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({"top": ("place",), "median": ()})

    def of(self, values: Floats) -> Partial:
        low, high = middle_of_all(values)
        return {"top": three_largest(values), "median": np.array((low + high) / 2)}

    def together(self, first: Partial, second: Partial) -> Partial:
        raise AssertionError("partials are kept by sequence, each of one piece")


def evaluate(found: xr.Dataset) -> xr.Dataset:
    """As above, and the means over sequences: ``first``, ``second``, ``third`` and ``middle`` (tensor, layer)."""
    mean = found.mean("sequence")
    places = {name: mean.top.isel(place=i) for i, name in enumerate(("first", "second", "third"))}
    return found.assign(**places, middle=mean["median"])


CRITERION = Criterion(
    name="top-values",
    title="Largest and median magnitudes",
    formula=(
        "the three largest |x| and the median |x| of the (position, feature) tensor of a sequence; means over "
        "sequences, and over layers where one row stands for all"
    ),
    source="arXiv:2402.17762, figure of layers",
    kinds=("residual", "norm output"),
    statistic=TopValues,
    evaluate=evaluate,
    quantities=(
        Quantity("first", "Top 1", "mean"),
        Quantity("second", "Top 2", "mean"),
        Quantity("third", "Top 3", "mean"),
        Quantity("middle", "Median", "mean"),
        Quantity("first", "Largest top 1", "largest", where=True),
    ),
)
