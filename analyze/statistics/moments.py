"""Mean, variance, skewness and kurtosis of each feature, stable, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from analyze.statistics.piece import Piece
from analyze.statistics.statistic import Context, Partial, Partials, Statistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments(Statistic):
    """Central moments over positions and sequences by cell and feature, of the finite values.

    Result: ``count`` int64, ``mean``, ``m2``, ``m3``, ``m4`` float64, all (site, layer, feature): the k-th is the sum
    of ``(x - mean)^k``. So the variance is ``m2 / count`` and the kurtosis, not excess, ``count * m4 / m2^2``.
    Partials are put together by the formulas of Pebay (SAND2008-6212), which generalise Chan's.
    """

    name: ClassVar[str] = "moments"
    bytes_per_value: ClassVar[int] = 36

    def chunk(self, piece: Piece) -> Partial:
        x = piece.values.astype(np.float64)
        finite = np.isfinite(x)
        count = finite.sum(axis=0)
        x[~finite] = 0
        with np.errstate(invalid="ignore"):
            mean = np.where(count > 0, x.sum(axis=0) / np.maximum(count, 1), 0.0)
        x -= mean
        x[~finite] = 0
        square = x * x
        partial = {"count": count.astype(np.int64), "mean": mean, "m2": square.sum(axis=0)}
        x *= square
        partial["m3"] = x.sum(axis=0)
        square *= square
        partial["m4"] = square.sum(axis=0)
        return partial

    def combine(self, first: Partial, second: Partial) -> Partial:
        na, nb = first["count"].astype(np.float64), second["count"].astype(np.float64)
        n = np.maximum(na + nb, 1)
        d = second["mean"] - first["mean"]
        (a2, a3, a4), (b2, b3, b4) = ([p[k] for k in ("m2", "m3", "m4")] for p in (first, second))
        return {
            "count": first["count"] + second["count"],
            "mean": np.where(na == 0, second["mean"], first["mean"] + d * nb / n),
            "m2": a2 + b2 + d**2 * na * nb / n,
            "m3": a3 + b3 + d**3 * na * nb * (na - nb) / n**2 + 3 * d * (na * b2 - nb * a2) / n,
            "m4": a4
            + b4
            + d**4 * na * nb * (na**2 - na * nb + nb**2) / n**3
            + 6 * d**2 * (na**2 * b2 + nb**2 * a2) / n**2
            + 4 * d * (na * b3 - nb * a3) / n,
        }

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        dims = ("site", "layer", "feature")
        names = ("count", "mean", "m2", "m3", "m4")
        return context.dataset({name: (dims, context.cells(partials, name)) for name in names})
