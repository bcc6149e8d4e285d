"""Peaks and hit counts that are asked for together, taken from each piece in one visit of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyze.statistics.exceedances import Exceedances
from analyze.statistics.peak_reduction import reduce_piece
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from analyze.statistics.piece import Piece
from analyze.statistics.statistic import Key, Partial, Reduction

__all__ = ["Fusion"]

Found = tuple[dict[Key, Partial], ...]


@dataclass(frozen=True)
class Fusion:
    """Where in a sequence of statistics those are that one visit gives; None for one that is not asked for."""

    layer_peaks: int | None
    position_peaks: int | None
    exceedances: int | None

    @staticmethod
    def of(statistics: Sequence[Reduction], in_gain_units: bool) -> Fusion:
        """Those among ``statistics``; in gain units none, since it is not the stored patterns that are counted."""
        if in_gain_units:
            return Fusion(None, None, None)
        where = {type(statistic): i for i, statistic in enumerate(statistics)}
        return Fusion(where.get(LayerPeaks), where.get(PositionPeaks), where.get(Exceedances))

    @property
    def members(self) -> frozenset[int]:
        """Their places."""
        return frozenset({self.layer_peaks, self.position_peaks, self.exceedances} - {None})  # type: ignore[arg-type]

    def take(self, statistics: Sequence[Reduction], piece: Piece, found: Found) -> None:
        """Add what ``piece`` contributes to ``found``, whose position peaks are raised in place.

        Raises UnreadableChunkError as ``reduce_piece`` does; ``found`` is then as good as it was.
        """
        if not self.members:
            return
        thresholds: tuple[int, ...] = ()
        counting = None if self.exceedances is None else statistics[self.exceedances]
        if isinstance(counting, Exceedances):
            thresholds = counting.thresholds(piece.encoding)
        running = None
        if self.position_peaks is not None:
            key = statistics[self.position_peaks].key(piece)
            held = found[self.position_peaks].setdefault(key, {})
            if not held:
                held["position_peak"] = np.zeros(piece.stored.shape, piece.encoding.unsigned)
            running = held["position_peak"]
        reduced = reduce_piece(piece, thresholds, running)
        if self.layer_peaks is not None:
            peak = {"layer_peak": reduced.layer_peak, "nonfinite": np.array(reduced.nonfinite)}
            add(statistics[self.layer_peaks], piece, peak, found[self.layer_peaks])
        if isinstance(counting, Exceedances) and self.exceedances is not None:
            add(counting, piece, counting.of_hits(reduced.hits, piece), found[self.exceedances])


def add(statistic: Reduction, piece: Piece, partial: Partial, held: dict[Key, Partial]) -> None:
    """Combine a piece's partial with what is held under its key."""
    key = statistic.key(piece)
    held[key] = statistic.combine(held[key], partial) if key in held else partial
