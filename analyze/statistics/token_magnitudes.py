"""The largest, the median and the root mean square magnitude of each token's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from analyze.statistics.medians import middle_of_rows
from analyze.statistics.piece import Piece
from analyze.statistics.statistic import Context, Partial, Partials, Statistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["TokenMagnitudes"]


@dataclass(frozen=True)
class TokenMagnitudes(Statistic):
    """Over the features of one token at a time.

    Result, all (site, layer, sequence, position) float64: ``maximum`` and ``median`` of ``|x|``, the median of an even
    number being the mean of the middle two, and ``rms``, the root of the mean of ``x^2``. NaN is left out; NaN stands
    where there is nothing else, and at positions that are not chosen.
    """

    name: ClassVar[str] = "token_magnitudes"
    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer", "sequence", "start"})
    bytes_per_value: ClassVar[int] = 28

    def partial_bytes(self, rows: int, features: int) -> int:
        return 24 * rows

    def chunk(self, piece: Piece) -> Partial:
        values = piece.values
        low, high = middle_of_rows(values)
        known = ~np.isnan(values)
        squares = np.where(known, values, np.float32(0)).astype(np.float64)
        np.square(squares, out=squares)
        count = known.sum(axis=1)
        empty = count == 0
        maximum = np.fmax.reduce(np.abs(values), axis=1) if values.size else np.zeros(len(values))
        with np.errstate(invalid="ignore"):
            median = (low.astype(np.float64) + high.astype(np.float64)) / 2
            rms = np.sqrt(squares.sum(axis=1) / np.where(empty, np.nan, count))
        return {"maximum": maximum.astype(np.float64), "median": median, "rms": rms}

    def combine(self, first: Partial, second: Partial) -> Partial:
        raise AssertionError("every part of a cell is kept by itself")

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        chosen, d = context.chosen, context.run.dimensions
        shape = (len(chosen.sites), len(chosen.layers), len(chosen.sequences), d.positions)
        whole = {name: np.full(shape, np.nan) for name in ("maximum", "median", "rms")}
        place = [{name: i for i, name in enumerate(names)} for names in (chosen.sites, chosen.layers, chosen.sequences)]
        for key, partial in partials.items():
            site, layer, sequence, start = key
            if site is None or layer is None or sequence is None or start is None:
                continue
            rows = context.positions[sequence][start : start + len(partial["rms"])]
            for name, values in whole.items():
                values[place[0][site], place[1][layer], place[2][sequence], rows] = partial[name]
        dims = ("site", "layer", "sequence", "position")
        return context.dataset({name: (dims, values) for name, values in whole.items()})
