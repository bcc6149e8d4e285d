"""Each feature of a tensor over all its tokens: mean, spread, and the size of its magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.statistics.statistic import Context, Partial, Partials
from analyze.statistics.tensors import TensorStatistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Channels"]

_ROWS = 128
"""Rows worked on at a time: their float64 copies stay in cache."""


@dataclass(frozen=True)
class Channels(TensorStatistic):
    """Of each feature, over the chosen positions of all sequences, finite values alone but for ``largest``.

    Result: (tensor, layer, feature) of ``count`` int64, ``mean`` and ``m2`` (the sum of ``(x - mean)^2``),
    ``magnitudes`` (the sum of ``|x|``), ``largest`` (the largest ``|x|``, infinite where a value is, 0 where all are
    NaN), float64. Blocks of rows are put together by Chan's formula in a fixed order, so the mean square, ``mean^2 +
    m2 / count``, loses nothing.
    """

    name: ClassVar[str] = "channels"
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        dict.fromkeys(("count", "mean", "m2", "magnitudes", "largest"), ("feature",))
    )

    def of(self, values: npt.NDArray[np.float32]) -> Partial:
        total = self._of_block(values[:0])
        for start in range(0, values.shape[0], _ROWS):
            total = self.together(total, self._of_block(values[start : start + _ROWS]))
        return total

    def _of_block(self, values: npt.NDArray[np.float32]) -> Partial:
        x = values.astype(np.float64)
        finite = np.isfinite(x)
        everything = bool(finite.all())
        count = np.full(x.shape[1], x.shape[0], np.int64) if everything else finite.sum(axis=0).astype(np.int64)
        infinite = np.zeros(x.shape[1])
        if not everything:
            infinite[np.isinf(x).any(axis=0)] = np.inf
            x[~finite] = 0
        mean = x.sum(axis=0) / np.maximum(count, 1)
        magnitudes = np.abs(x)
        partial = {
            "count": count,
            "mean": mean,
            "magnitudes": magnitudes.sum(axis=0),
            "largest": np.maximum(magnitudes.max(axis=0, initial=0), infinite),
        }
        x -= mean
        if not everything:
            x[~finite] = 0
        np.multiply(x, x, out=x)
        return {**partial, "m2": x.sum(axis=0)}

    def together(self, first: Partial, second: Partial) -> Partial:
        na, nb = first["count"].astype(np.float64), second["count"].astype(np.float64)
        n = np.maximum(na + nb, 1)
        apart = second["mean"] - first["mean"]
        return {
            "count": first["count"] + second["count"],
            "mean": np.where(na == 0, second["mean"], first["mean"] + apart * (nb / n)),
            "m2": first["m2"] + second["m2"] + apart * apart * (na * nb / n),
            "magnitudes": first["magnitudes"] + second["magnitudes"],
            "largest": np.maximum(first["largest"], second["largest"]),
        }

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        """As above, and ``mean_square`` and ``variance`` (over count, not count - 1), NaN of no value."""
        found = super().finalize(partials, context)
        count = found["count"].where(found["count"] > 0)
        variance = found["m2"] / count
        return found.assign(variance=variance, mean_square=found["mean"] ** 2 + variance)
