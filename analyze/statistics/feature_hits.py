"""All hits of one feature, by magnitude: their exact distribution over every cell, and its median."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from analyze.gain import quotient_patterns
from analyze.quantities import require_decimals
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Context, Key, Partial, Partials, Statistic
from schemas.bits import ENCODINGS, Encoding, decode, magnitude_bits, magnitude_value, threshold_bits
from schemas.errors import InputError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FeatureHits"]


@dataclass(frozen=True)
class FeatureHits(Statistic):
    """Values of ``feature`` whose magnitude reaches ``magnitude``, an exact decimal as text, over all cells together.

    Result: ``hits`` (hit_magnitude) int64, how many have each magnitude that occurs, whose coordinate is that
    magnitude, ascending; ``median`` of them, exact and rounded once, infinite where it is, NaN without any. NaN is no
    hit. Memory grows with the distinct magnitudes: at most 32,768 in 16-bit encodings, in float32 the hits themselves.
    In gain units the values are quotients, as float32 rounded towards zero.
    """

    feature: int
    magnitude: str

    name: ClassVar[str] = "feature_hits"
    keeps: ClassVar[frozenset[str]] = frozenset()
    bytes_per_value: ClassVar[int] = 4

    @property
    def least_magnitude(self) -> Fraction | None:
        return Fraction(self.magnitude)

    def check(self, run: Run, chosen: Chosen) -> None:
        require_decimals((self.magnitude,), "magnitude")
        if not 0 <= self.feature < run.dimensions.features:
            raise InputError(f"there is no feature {self.feature}; {run.path} has 0 to {run.dimensions.features - 1}")

    def chunk(self, piece: Piece) -> Partial:
        encoding = _encoding(piece.encoding, piece.in_gain_units)
        own = piece.patterns[:, self.feature]
        if piece.in_gain_units:
            own = quotient_patterns(decode(own, piece.encoding), piece.gain[self.feature])
        magnitudes = magnitude_bits(own, encoding)
        least = threshold_bits(Fraction(self.magnitude), encoding)
        patterns, counts = np.unique(
            magnitudes[(magnitudes >= least) & (magnitudes <= encoding.infinity)], return_counts=True
        )
        return {"patterns": patterns, "counts": counts.astype(np.int64)}

    def combine(self, first: Partial, second: Partial) -> Partial:
        patterns, place = np.unique(np.concatenate([first["patterns"], second["patterns"]]), return_inverse=True)
        counts = np.zeros(patterns.size, np.int64)
        np.add.at(counts, place, np.concatenate([first["counts"], second["counts"]]))
        return {"patterns": patterns, "counts": counts}

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        encoding = _encoding(context.run.encoding, context.chosen.in_gain_units)
        found = partials[Key(None, None, None, None)]
        patterns, counts = found["patterns"], found["counts"]
        exact = decode(patterns.astype(encoding.unsigned).view(encoding.stored), encoding).astype(np.float64)
        below = np.cumsum(counts)
        median: Any = np.nan
        if patterns.size:
            total = int(below[-1])
            low, high = (int(patterns[np.searchsorted(below, rank, side="right")]) for rank in _middle(total))
            median = (
                np.inf
                if high == encoding.infinity
                else float((magnitude_value(low, encoding) + magnitude_value(high, encoding)) / 2)
            )
        return context.dataset({"hits": (("hit_magnitude",), counts), "median": ((), median)}).assign_coords(
            hit_magnitude=exact
        )


def _encoding(stored: Encoding, in_gain_units: bool) -> Encoding:
    return ENCODINGS["float32"] if in_gain_units else stored


def _middle(total: int) -> tuple[int, int]:
    """Ranks, from 0, of the two middle ones of so many; one and the same where the number is odd."""
    return (total - 1) // 2, total // 2
