"""Peaks and hit counts of a piece, all from one visit of each value by the compiled loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.statistics.piece import Piece
from schemas.bits import Encoding
from schemas.chunk_reading import UnreadableChunkError

__all__ = ["PieceReduction", "reduce_piece"]

Patterns = npt.NDArray[Any]
Counts = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class PieceReduction:
    """``layer_peak`` (feature,); ``hits`` (threshold, feature) unsigned; how many values are NaN or infinite."""

    layer_peak: Patterns
    hits: Counts
    nonfinite: int


def reduce_piece(piece: Piece, thresholds: tuple[int, ...], position_peak: Patterns | None = None) -> PieceReduction:
    """Peaks of ``piece`` and its hits at ascending patterns; ``position_peak`` (row, feature) is raised to its maxima.

    A NaN is no hit and no peak; an infinity is.

    Raises UnreadableChunkError for a piece with a ``frame`` that only a decoder of whole chunks can take.
    """
    from analyze.statistics.peak_kernel import UNDECODED, reduce_blocks, reduce_rows, total_hits

    encoding, features = piece.encoding, piece.stored.shape[1]
    unsigned = encoding.unsigned.type
    levels, level_of = _levels(thresholds, encoding)
    counted = np.uint16 if len(piece.position) < 2**16 else np.uint32  # half as much to clear and to add
    counts = np.zeros((levels.size, features), counted)
    exactly = np.zeros((levels.size + 1, features), counted)
    layer_peak = np.zeros(features, encoding.unsigned)
    outputs = (
        levels,
        level_of,
        unsigned(encoding.sign_mask - 1),
        unsigned(encoding.infinity),
        counts,
        exactly,
        layer_peak,
        np.zeros((0, features), encoding.unsigned) if position_peak is None else position_peak,
    )
    if piece.frame is None:
        nonfinite = reduce_rows(np.ascontiguousarray(piece.patterns), *outputs)
    else:
        nonfinite = UNDECODED if levels.size < len(thresholds) else reduce_blocks(piece.frame, *outputs)
        if nonfinite == UNDECODED:
            raise UnreadableChunkError("it is not decoded a block at a time")
    total_hits(counts, exactly)
    if levels.size < len(thresholds):  # the first is 0, which every value reaches that is not NaN
        numbers = np.count_nonzero(piece.magnitudes <= encoding.infinity, axis=0).astype(np.uint32)
        counts = np.vstack([numbers, counts])
    return PieceReduction(layer_peak, counts, int(nonfinite))


@lru_cache(maxsize=8)
def _levels(thresholds: tuple[int, ...], encoding: Encoding) -> tuple[Patterns, Patterns]:
    """Thresholds from 1 on, and how many of them each 16-bit pattern reaches; of 32 bits that table is empty."""
    levels = np.array([threshold for threshold in thresholds if threshold > 0], encoding.unsigned)
    if encoding.itemsize > 2:
        return levels, np.zeros(0, np.uint16)
    return levels, np.searchsorted(levels, np.arange(encoding.sign_mask), side="right").astype(np.uint16)
