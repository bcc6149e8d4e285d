"""The lowest and the highest value of each feature, with their signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from analyze.statistics.piece import Piece
from analyze.statistics.statistic import Context, Partial, Partials, Statistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SignedExtremes"]


@dataclass(frozen=True)
class SignedExtremes(Statistic):
    """Extremes over positions and sequences by cell and feature.

    Result: ``lowest`` and ``highest`` (site, layer, feature) float32, in the units of the hidden state or of gain; NaN
    is passed over, and stands where there is nothing else.
    """

    name: ClassVar[str] = "signed_extremes"
    bytes_per_value: ClassVar[int] = 8

    def partial_bytes(self, rows: int, features: int) -> int:
        return 8 * features

    def chunk(self, piece: Piece) -> Partial:
        values = piece.values
        if not len(values):
            nothing = np.full(values.shape[1], np.nan, np.float32)
            return {"lowest": nothing, "highest": nothing}
        return {"lowest": np.fmin.reduce(values, axis=0), "highest": np.fmax.reduce(values, axis=0)}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {
            "lowest": np.fmin(first["lowest"], second["lowest"]),
            "highest": np.fmax(first["highest"], second["highest"]),
        }

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        dims = ("site", "layer", "feature")
        return context.dataset({name: (dims, context.cells(partials, name)) for name in ("lowest", "highest")})
