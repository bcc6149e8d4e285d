"""How many values of each feature reach each magnitude, in every cell."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from analyze.quantities import decimal_text
from analyze.statistics.hits import hits_of
from analyze.statistics.piece import Piece
from analyze.statistics.statistic import Context, Partial, Partials, Statistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Exceedances"]


@dataclass(frozen=True)
class Exceedances(Statistic):
    """Hits by cell and feature at ``magnitudes``, which are exact decimals as text, each once.

    Result: ``hits`` (site, layer, feature, magnitude) int64, summed over sequences and positions; ``rows`` (site,
    layer), how many values of each feature were looked at. A hit at m is ``|x| >= m`` in real arithmetic: NaN never,
    an infinity always.
    """

    magnitudes: tuple[str, ...]

    name: ClassVar[str] = "exceedances"
    bytes_per_value: ClassVar[int] = 4

    @property
    def least_magnitude(self) -> Fraction | None:
        return min(map(Fraction, self.magnitudes))

    def chunk(self, piece: Piece) -> Partial:
        hits = hits_of(piece, self.magnitudes, by="feature")
        return {"hits": hits, "rows": np.array(len(piece.position))}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {name: first[name] + second[name] for name in first}

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        hits = context.cells(partials, "hits")
        return context.dataset(
            {
                "hits": (("site", "layer", "feature", "magnitude"), hits),
                "rows": (("site", "layer"), context.cells(partials, "rows")),
            }
        ).assign_coords(magnitude=[decimal_text(Fraction(m)) for m in self.magnitudes])
