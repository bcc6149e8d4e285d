"""How many values of a piece reach each magnitude, by feature or by row."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analyze.gain import quotient_patterns
from analyze.statistics.piece import Piece
from analyze.thresholds.order import counts_at_least
from schemas.bits import ENCODINGS, Encoding, decode, magnitude_bits, threshold_bits

__all__ = ["hits_of", "threshold_patterns"]


def hits_of(
    piece: Piece,
    magnitudes: tuple[str, ...],
    rows: npt.NDArray[Any] | None = None,
    features: Sequence[int] | None = None,
    *,
    by: Literal["feature", "row"],
) -> Any:
    """Hits of ``rows`` and ``features`` of a piece (None: all), ``by`` feature or by row: (n, magnitude) int64.

    In gain units, the values divided by the gain are compared, as ``quotient_patterns`` rounds them.
    """
    encoding = ENCODINGS["float32"] if piece.in_gain_units else piece.encoding
    patterns = piece.magnitudes
    if piece.in_gain_units:
        patterns = magnitude_bits(quotient_patterns(decode(piece.stored, piece.encoding), piece.gain), encoding)
    own = patterns if rows is None else patterns[rows]
    chosen = own if features is None else own[:, list(features)]
    thresholds = threshold_patterns(magnitudes, encoding)
    edges = sorted({*thresholds, encoding.infinity + 1})
    reached = counts_at_least(chosen.T if by == "row" else chosen, edges)
    return reached[:, np.searchsorted(edges, thresholds)] - reached[:, -1:]


@lru_cache(maxsize=16)
def threshold_patterns(magnitudes: tuple[str, ...], encoding: Encoding) -> tuple[int, ...]:
    """The pattern of each magnitude, exactly: half a millisecond of fractions, which are asked for every piece."""
    return tuple(threshold_bits(Fraction(m), encoding) for m in magnitudes)
