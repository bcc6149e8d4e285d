"""How many values of each feature reach each magnitude, in every cell."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.quantities import decimal_list, decimal_text, require_decimals
from analyze.statistics.hits import hits_of, threshold_patterns
from analyze.statistics.peak_reduction import reduce_piece
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Context, Partial, Partials, Statistic
from schemas.bits import Encoding
from schemas.errors import InputError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Exceedances"]


@dataclass(frozen=True)
class Exceedances(Statistic):
    """Hits by cell and feature at ``magnitudes``, decimals as text or numbers.

    Result: ``hits`` (site, layer, feature, magnitude) int64, summed over sequences and positions; ``rows`` (site,
    layer) int64, how many values of each feature were looked at. A hit at m is ``|x| >= m`` in real arithmetic: NaN
    never is one, an infinity always. In gain units the values divided by the gain are compared, as float32.
    """

    magnitudes: tuple[str, ...]

    name: ClassVar[str] = "exceedances"
    bytes_per_value: ClassVar[int] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "magnitudes", decimal_list(self.magnitudes, "magnitudes"))

    @property
    def least_magnitude(self) -> Fraction | None:
        return min(map(Fraction, self.magnitudes))

    def check(self, run: Run, chosen: Chosen) -> None:
        if not self.magnitudes:
            raise InputError("exceedances at no magnitude: give at least one")
        require_decimals(self.magnitudes, "magnitude")

    def partial_bytes(self, rows: int, features: int) -> int:
        return 16 * features * len(self.magnitudes)

    def thresholds(self, encoding: Encoding) -> tuple[int, ...]:
        """The distinct patterns of the magnitudes, ascending."""
        return _distinct(self.magnitudes, encoding)

    def chunk(self, piece: Piece) -> Partial:
        if piece.in_gain_units:
            return self.of_hits(hits_of(piece, self.magnitudes, by="feature").T, piece)
        return self.of_hits(reduce_piece(piece, self.thresholds(piece.encoding)).hits, piece)

    def of_hits(self, hits: npt.NDArray[Any], piece: Piece) -> Partial:
        """The partial of (threshold, feature) hits of a piece."""
        rows = len(piece.position)
        return {"hits": hits.astype(_dtype(rows), copy=False), "rows": np.array(rows)}

    def combine(self, first: Partial, second: Partial) -> Partial:
        rows = first["rows"] + second["rows"]
        return {"hits": np.add(first["hits"], second["hits"], dtype=_dtype(int(rows))), "rows": rows}

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        encoding = context.run.encoding
        thresholds = self.thresholds(encoding)
        of = [thresholds.index(pattern) for pattern in threshold_patterns(self.magnitudes, encoding)]
        hits = context.cells(partials, "hits", np.int64)
        if not context.chosen.in_gain_units and of != list(range(len(thresholds))):  # equal patterns are counted once
            hits = hits[:, :, of]
        return context.dataset(
            {
                "hits": (("site", "layer", "feature", "magnitude"), hits.swapaxes(2, 3)),
                "rows": (("site", "layer"), context.cells(partials, "rows")),
            }
        ).assign_coords(magnitude=[decimal_text(Fraction(m)) for m in self.magnitudes])


def _dtype(rows: int) -> npt.DTypeLike:
    """Of numbers up to ``rows``: the counts are most of what a pass holds."""
    return np.min_scalar_type(rows)


@lru_cache(maxsize=16)
def _distinct(magnitudes: tuple[str, ...], encoding: Encoding) -> tuple[int, ...]:
    return tuple(sorted(set(threshold_patterns(magnitudes, encoding))))
