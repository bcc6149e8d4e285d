"""How many values of each feature reach each magnitude, in every cell."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from analyze.quantities import decimal_text
from analyze.statistics.hits import hits_of
from analyze.statistics.peak_reduction import reduce_piece
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Context, Partial, Partials, Statistic
from schemas.bits import Encoding, threshold_bits
from schemas.errors import InputError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Exceedances"]


@dataclass(frozen=True)
class Exceedances(Statistic):
    """Hits by cell and feature at ``magnitudes``, which are decimals as text, each once.

    Result: ``hits`` (site, layer, feature, magnitude) int64, summed over sequences and positions; ``rows`` (site,
    layer) int64, how many values of each feature were looked at. A hit at m is ``|x| >= m`` in real arithmetic: NaN
    never is one, an infinity always. In gain units the values divided by the gain are compared, as float32.
    """

    magnitudes: tuple[str, ...]

    name: ClassVar[str] = "exceedances"
    bytes_per_value: ClassVar[int] = 0

    @property
    def least_magnitude(self) -> Fraction | None:
        return min(map(Fraction, self.magnitudes))

    def check(self, run: Run, chosen: Chosen) -> None:
        if not self.magnitudes:
            raise InputError("exceedances at no magnitude: give at least one")

    def partial_bytes(self, rows: int, features: int) -> int:
        return 16 * features * len(self.magnitudes)

    def thresholds(self, encoding: Encoding) -> tuple[int, ...]:
        """The distinct patterns of the magnitudes, ascending."""
        return tuple(sorted({threshold_bits(Fraction(m), encoding) for m in self.magnitudes}))

    def chunk(self, piece: Piece) -> Partial:
        if piece.in_gain_units:
            return self.of_hits(hits_of(piece, self.magnitudes, by="feature"), piece)
        return self.of_hits(reduce_piece(piece, self.thresholds(piece.encoding)).hits, piece)

    def of_hits(self, hits: np.ndarray[tuple[int, ...], np.dtype[np.int64]], piece: Piece) -> Partial:
        """The partial of (feature, threshold) hits of a piece."""
        return {"hits": hits, "rows": np.array(len(piece.position))}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {name: first[name] + second[name] for name in first}

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        encoding = context.run.encoding
        thresholds = self.thresholds(encoding)
        of = [thresholds.index(threshold_bits(Fraction(m), encoding)) for m in self.magnitudes]
        hits = context.cells(partials, "hits")
        if not context.chosen.in_gain_units:  # there, hits are counted once for equal patterns
            hits = hits[..., of]
        return context.dataset(
            {
                "hits": (("site", "layer", "feature", "magnitude"), hits),
                "rows": (("site", "layer"), context.cells(partials, "rows")),
            }
        ).assign_coords(magnitude=[decimal_text(Fraction(m)) for m in self.magnitudes])
