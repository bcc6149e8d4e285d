"""How magnitudes are distributed in each cell: an exact histogram of bit patterns, and exact quantiles from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.quantities import decimal_list, require_decimals
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Context, Key, Partial, Partials, Statistic
from schemas.bits import Encoding, magnitude_value
from schemas.errors import InputError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Magnitudes"]

Counts = npt.NDArray[np.int64]
_BINS = 2**15
"""Sign-cleared patterns of 16 bits; of 32, their high halves."""
_LOW_BITS = 16
_LOW = 1 << _LOW_BITS


@dataclass(frozen=True)
class Magnitudes(Statistic):
    """Exact quantiles of ``|x|`` over all positions, sequences and features of a cell.

    Result: ``quantile`` (site, layer, probability) float64, interpolated as NumPy's ``linear`` does, in fractions,
    rounded once; ``count`` (site, layer) int64, values that are not NaN; with ``histogram``, of a 16-bit encoding also
    ``histogram`` (site, layer, pattern) int64 of the sign-cleared patterns up to infinity's. ``probabilities`` are
    decimals as text or numbers. float32 takes a second pass, for the low bits within the bins that hold a wanted rank.
    """

    probabilities: tuple[str, ...] = ("0.5",)
    histogram: bool = False

    name: ClassVar[str] = "magnitudes"
    bytes_per_value: ClassVar[int] = 12

    def __post_init__(self) -> None:
        object.__setattr__(self, "probabilities", decimal_list(self.probabilities, "probabilities"))

    def check(self, run: Run, chosen: Chosen) -> None:
        if chosen.in_gain_units:
            raise InputError("magnitudes counts bit patterns, which are not divided: ask without gain units")
        require_decimals(self.probabilities, "quantile at", Fraction(1))
        if self.histogram and run.encoding.itemsize > 2:
            raise InputError(f"float32 has too many bit patterns for a histogram of each: {run.path} holds float32")

    def partial_bytes(self, rows: int, features: int) -> int:
        return 8 * _BINS

    def chunk(self, piece: Piece) -> Partial:
        magnitudes = piece.magnitudes
        shift = 8 * piece.encoding.itemsize - _LOW_BITS
        numbers = magnitudes.ravel()
        if shift:  # a NaN may share infinity's bin
            numbers = magnitudes[magnitudes <= piece.encoding.infinity] >> np.uint32(shift)
        counts = np.bincount(numbers, minlength=_BINS).astype(np.int64)
        counts[(piece.encoding.infinity >> shift) + 1 :] = 0
        return {"counts": counts}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {"counts": first["counts"] + second["counts"]}

    def follow(self, partials: Partials, context: Context) -> Statistic | None:
        if context.run.encoding.itemsize == 2:
            return None
        cells = tuple(
            ((key.site, key.layer), tuple(sorted(_places(held["counts"], self.probabilities))))
            for key, held in partials.items()
        )
        return _LowHalves(self, cells, dict(partials))

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        encoding = context.run.encoding

        def pattern(key: Key, rank: int) -> int:
            return int(np.searchsorted(np.cumsum(partials[key]["counts"]), rank, side="right"))

        found = _quantiles(self, partials, context, pattern)
        if not self.histogram:
            return found
        counts = context.cells(partials, "counts")[..., : encoding.infinity + 1]
        return found.assign(histogram=(("site", "layer", "pattern"), counts))


@dataclass(frozen=True)
class _LowHalves(Statistic):
    """Counts of the low halves of 32-bit patterns within the bins of each cell that hold a wanted rank."""

    of: Magnitudes
    cells: tuple[tuple[tuple[str | None, int | None], tuple[int, ...]], ...]
    high: Partials = field(repr=False, compare=False)

    name: ClassVar[str] = "magnitudes"
    bytes_per_value: ClassVar[int] = 12

    def partial_bytes(self, rows: int, features: int) -> int:
        return 8 * _LOW * max((len(bins) for _, bins in self.cells), default=0)

    def chunk(self, piece: Piece) -> Partial:
        bins = dict(self.cells)[piece.site, piece.layer]
        magnitudes = piece.magnitudes
        kept = magnitudes[magnitudes <= piece.encoding.infinity]
        high = kept >> np.uint32(_LOW_BITS)
        found = [np.bincount(kept[high == one] & np.uint32(0xFFFF), minlength=_LOW) for one in bins]
        return {"low": np.array(found, np.int64).reshape(len(bins), _LOW)}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {"low": first["low"] + second["low"]}

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        bins = dict(self.cells)

        def pattern(key: Key, rank: int) -> int:
            below = np.concatenate([[0], np.cumsum(self.high[key]["counts"])])
            place = int(np.searchsorted(below, rank, side="right")) - 1
            low = partials[key]["low"][bins[key.site, key.layer].index(place)]
            within: int = int(np.searchsorted(np.cumsum(low), rank - int(below[place]), side="right"))
            return place * _LOW + within

        return _quantiles(self.of, self.high, context, pattern)


def _ranks(count: int, probability: str) -> tuple[int, int, Fraction]:
    """(lower rank, upper rank, weight of the upper) of a quantile of ``count`` sorted values."""
    low, weight = divmod(Fraction(probability) * (count - 1), 1)
    return int(low), min(int(low) + 1, count - 1), weight


def _places(counts: Counts, probabilities: Sequence[str]) -> set[int]:
    """Bins that hold a rank of a quantile."""
    count = int(counts.sum())
    ranks = {rank for p in probabilities for rank in _ranks(count, p)[:2]} if count else set()
    sums = np.cumsum(counts)
    return {int(np.searchsorted(sums, rank, side="right")) for rank in ranks}


def _quantiles(statistic: Magnitudes, partials: Partials, context: Context, pattern: Any) -> xr.Dataset:
    chosen, encoding = context.chosen, context.run.encoding
    shape = (len(chosen.sites), len(chosen.layers))
    counts = np.zeros(shape, np.int64)
    values = np.full((*shape, len(statistic.probabilities)), np.nan)
    for i, site in enumerate(chosen.sites):
        for j, layer in enumerate(chosen.layers):
            key = Key(site, layer, None, None)
            if key not in partials:
                continue
            counts[i, j] = count = int(partials[key]["counts"].sum())
            for k, probability in enumerate(statistic.probabilities if count else ()):
                low, high, weight = _ranks(count, probability)
                values[i, j, k] = _between(pattern(key, low), pattern(key, high), weight, encoding)
    found = context.dataset(
        {"quantile": (("site", "layer", "probability"), values), "count": (("site", "layer"), counts)}
    )
    return found.assign_coords(probability=[float(Fraction(p)) for p in statistic.probabilities])


def _between(low: int, high: int, weight: Fraction, encoding: Encoding) -> float:
    if high == encoding.infinity and (weight or low == high):
        return float("inf")
    a = magnitude_value(low, encoding)
    return float(a if not weight else a + (magnitude_value(high, encoding) - a) * weight)
