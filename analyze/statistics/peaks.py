"""The two peaks that answer almost everything, as capture stores them, computed anew from the slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from analyze.statistics.peak_reduction import reduce_piece
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Context, Partial, Partials, Statistic
from schemas.errors import InputError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LayerPeaks", "PositionPeaks"]


def _refuse_gain_units(statistic: Statistic, chosen: Chosen) -> None:
    if chosen.in_gain_units:
        raise InputError(f"{statistic.name} are bit patterns, which are not divided: ask for them without gain units")


@dataclass(frozen=True)
class LayerPeaks(Statistic):
    """The largest magnitude of each feature over the chosen positions, in every cell of every sequence.

    Result: ``layer_peak`` (site, layer, sequence, feature), sign-cleared patterns of the store's encoding, 0 where all
    are NaN; ``nonfinite`` (site, layer, sequence) int64, how many values are NaN or infinite.
    """

    name: ClassVar[str] = "layer_peaks"
    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer", "sequence"})
    bytes_per_value: ClassVar[int] = 0

    def check(self, run: Run, chosen: Chosen) -> None:
        _refuse_gain_units(self, chosen)

    def partial_bytes(self, rows: int, features: int) -> int:
        return 4 * features + 8

    def chunk(self, piece: Piece) -> Partial:
        found = reduce_piece(piece, ())
        return {"layer_peak": found.layer_peak, "nonfinite": np.array(found.nonfinite)}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {
            "layer_peak": np.maximum(first["layer_peak"], second["layer_peak"]),
            "nonfinite": first["nonfinite"] + second["nonfinite"],
        }

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        dims = ("site", "layer", "sequence")
        return context.dataset(
            {
                "layer_peak": ((*dims, "feature"), context.sequence_cells(partials, "layer_peak")),
                "nonfinite": (dims, context.sequence_cells(partials, "nonfinite")),
            },
            bits=context.run.encoding.name,
        )


@dataclass(frozen=True)
class PositionPeaks(Statistic):
    """The largest magnitude of each feature over the chosen cells, at every chosen position of every sequence.

    Result: ``position_peak`` (sequence, position, feature), sign-cleared patterns of the store's encoding, 0 where all
    are NaN and at positions that are not chosen.
    """

    name: ClassVar[str] = "position_peaks"
    keeps: ClassVar[frozenset[str]] = frozenset({"sequence", "start"})
    bytes_per_value: ClassVar[int] = 0

    def check(self, run: Run, chosen: Chosen) -> None:
        _refuse_gain_units(self, chosen)

    def partial_bytes(self, rows: int, features: int) -> int:
        return 4 * rows * features

    def chunk(self, piece: Piece) -> Partial:
        peak = np.zeros(piece.stored.shape, piece.encoding.unsigned)
        reduce_piece(piece, (), peak)
        return {"position_peak": peak}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {"position_peak": np.maximum(first["position_peak"], second["position_peak"])}

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        peaks = context.by_position(partials, "position_peak")
        return context.dataset(
            {"position_peak": (("sequence", "position", "feature"), peaks)}, bits=context.run.encoding.name
        )
