"""How many values reach each magnitude at each position, in every cell."""

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

__all__ = ["PositionHits"]


@dataclass(frozen=True)
class PositionHits(Statistic):
    """Hits by cell and position at ``magnitudes``, exact decimals as text, of sequences of ``positions``.

    Result: ``hits`` (site, layer, position, magnitude) int64, summed over sequences and features; ``rows`` (site,
    layer, position), how many tokens were looked at there; ``tokens`` (site, layer, magnitude), those of them with at
    least one hit.
    """

    magnitudes: tuple[str, ...]
    positions: int

    name: ClassVar[str] = "position-hits"
    bytes_per_value: ClassVar[int] = 10

    @property
    def least_magnitude(self) -> Fraction | None:
        return min(map(Fraction, self.magnitudes))

    def partial_bytes(self, rows: int, features: int) -> int:
        return 8 * (self.positions + 1) * (len(self.magnitudes) + 1)

    def chunk(self, piece: Piece) -> Partial:
        found = hits_of(piece, self.magnitudes, by="row")
        hits = np.zeros((self.positions, len(self.magnitudes)), np.int64)
        rows = np.zeros(self.positions, np.int64)
        hits[piece.position] = found
        rows[piece.position] = 1
        return {"hits": hits, "rows": rows, "tokens": np.count_nonzero(found, axis=0).astype(np.int64)}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {name: first[name] + second[name] for name in first}

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        return context.dataset(
            {
                "hits": (("site", "layer", "position", "magnitude"), context.cells(partials, "hits")),
                "rows": (("site", "layer", "position"), context.cells(partials, "rows")),
                "tokens": (("site", "layer", "magnitude"), context.cells(partials, "tokens")),
            }
        ).assign_coords(
            magnitude=[decimal_text(Fraction(m)) for m in self.magnitudes], position=np.arange(self.positions)
        )
