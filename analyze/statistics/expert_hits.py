"""How many values reach each magnitude in the tokens that each expert was given."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.quantities import decimal_text
from analyze.statistics.hits import hits_of
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Context, Partial, Partials, Statistic
from schemas.errors import InputError
from schemas.layout import NO_EXPERT
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MOST_BYTES", "ExpertHits"]

MOST_BYTES = 2 * 2**30
"""Of the counts by layer, expert, feature and magnitude."""


@dataclass(frozen=True)
class ExpertHits(Statistic):
    """Hits by site, layer, expert and feature at ``magnitudes``, exact decimals as text, with ``experts`` in a layer.

    A token counts with each of the experts that it went to, whatever their weights. ``features``: those counted; None
    for all. Result: ``hits`` (site, layer, expert, feature, magnitude) uint32, summed over sequences; ``tokens``
    (site, layer, expert) int64, 0 in layers without experts.
    """

    magnitudes: tuple[str, ...]
    experts: int
    features: tuple[int, ...] | None = None

    name: ClassVar[str] = "expert-hits"
    needs: ClassVar[tuple[str, ...]] = ("expert_id",)
    bytes_per_value: ClassVar[int] = 10

    @property
    def least_magnitude(self) -> Fraction | None:
        return min(map(Fraction, self.magnitudes))

    def check(self, run: Run, chosen: Chosen) -> None:
        each = len(chosen.sites) * len(chosen.layers) * self.experts * self._width(run.dimensions.features) * 4
        if each * len(self.magnitudes) > MOST_BYTES:
            raise InputError(
                f"{len(self.magnitudes)} magnitudes by expert take {each * len(self.magnitudes) / 2**30:.1f} GiB of "
                f"counts; the limit is {MOST_BYTES // 2**30}. Ask for {max(1, MOST_BYTES // each)} at a time"
            )

    def partial_bytes(self, rows: int, features: int) -> int:
        return self.experts * (4 * self._width(features) * len(self.magnitudes) + 8)

    def _width(self, features: int) -> int:
        return features if self.features is None else len(self.features)

    def chunk(self, piece: Piece) -> Partial:
        width = self._width(piece.magnitudes.shape[1])
        hits = np.zeros((self.experts, width, len(self.magnitudes)), np.uint32)
        tokens = np.zeros(self.experts, np.int64)
        chosen: npt.NDArray[Any] | None = piece.beside("expert_id")
        if chosen is not None:
            for expert in np.unique(chosen[chosen != NO_EXPERT]):
                rows = np.flatnonzero((chosen == expert).any(axis=1))
                hits[expert] = hits_of(piece, self.magnitudes, rows, self.features, by="feature")
                tokens[expert] = rows.size
        return {"hits": hits, "tokens": tokens}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {name: first[name] + second[name] for name in first}

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        import xarray as xr

        chosen = self.features
        return xr.Dataset(
            {
                "hits": (("site", "layer", "expert", "feature", "magnitude"), context.cells(partials, "hits")),
                "tokens": (("site", "layer", "expert"), context.cells(partials, "tokens")),
            },
            {
                "site": list(context.chosen.sites),
                "layer": list(context.chosen.layers),
                "expert": np.arange(self.experts),
                "feature": np.arange(context.run.dimensions.features) if chosen is None else list(chosen),
                "magnitude": [decimal_text(Fraction(m)) for m in self.magnitudes],
            },
        )
