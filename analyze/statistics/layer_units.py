"""What a rule with more than one hit, in blocks or in units of gain takes from slices: of layers as it counts them.

A layer is a cell, or a block: the largest magnitude, value by value, of one layer's tensors at all chosen sites. Of a
block the pass is given the first site, and the statistic reads the others beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.gain import quotient_patterns
from analyze.statistics.peak_reduction import reduce_piece
from analyze.statistics.piece import Piece
from analyze.statistics.statistic import Partial, Reduction
from analyze.thresholds.definitions import ONE_HIT, Minimum
from analyze.thresholds.order import counts_at_least, kth_largest
from schemas.bits import ENCODINGS, decode, magnitude_bits
from schemas.errors import InputError
from schemas.layout import norm_array_name

__all__ = ["LayerLevels", "LayerUnitHits", "UnitPositionPeaks", "signed_patterns"]

Patterns = npt.NDArray[Any]


def signed_patterns(piece: Piece, array: str | None = None) -> Patterns:
    """Patterns with signs of the piece, or of another array beside it; in gain units those of float32 quotients."""
    stored = piece.stored if array is None else piece.beside(array)
    if stored is None:
        raise InputError(f"the store has no array {array!r}")
    if not piece.in_gain_units:
        return stored.view(piece.encoding.unsigned)
    gain = piece.gain if array is None else piece.beside(norm_array_name(array, "gain"))
    if gain is None:
        raise InputError(f"the store has no gain for {array!r}")
    return quotient_patterns(decode(stored, piece.encoding), gain)


def _magnitudes(piece: Piece, array: str | None) -> tuple[Patterns, int]:
    """Sign-cleared patterns, 0 for NaN, and how many values are NaN or infinite; nothing of it is a view."""
    encoding = ENCODINGS["float32"] if piece.in_gain_units else piece.encoding
    found = magnitude_bits(signed_patterns(piece, array), encoding)
    nonfinite = int(np.count_nonzero(found >= encoding.infinity))
    found[found > encoding.infinity] = 0
    return found, nonfinite


def _unit(piece: Piece, others: tuple[str, ...]) -> tuple[Patterns, list[Patterns], int]:
    """The layer's magnitudes, those of its tensors, and how many of their values are NaN or infinite."""
    found = [_magnitudes(piece, array) for array in (None, *others)]
    tensors = [tensor for tensor, _ in found]
    unit = tensors[0] if not others else np.maximum.reduce(tensors)
    return unit, tensors, sum(number for _, number in found)


@dataclass(frozen=True)
class _OfLayers(Reduction):
    """``others``: arrays of the block's other sites; none where a layer is a cell."""

    others: tuple[str, ...] = ()

    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer", "sequence"})
    bytes_per_value: ClassVar[int] = 32

    @property
    def beside(self) -> tuple[str, ...]:
        return self.others


@dataclass(frozen=True)
class LayerUnitHits(_OfLayers):
    """By layer and sequence: ``hits`` (feature, threshold) of the layer at ascending patterns, ``cell_hits`` of all its
    tensors together, ``layer_peak`` (feature,) and ``nonfinite``."""

    thresholds: tuple[int, ...] = ()

    name: ClassVar[str] = "layer_unit_hits"

    def partial_bytes(self, rows: int, features: int) -> int:
        return features * (16 * len(self.thresholds) + 8)

    def chunk(self, piece: Piece) -> Partial:
        if not self.others and not piece.in_gain_units:
            found = reduce_piece(piece, self.thresholds)
            return {"hits": found.hits.T.copy(), "layer_peak": found.layer_peak, "nonfinite": np.array(found.nonfinite)}
        unit, tensors, nonfinite = _unit(piece, self.others)
        partial = {
            "hits": counts_at_least(unit, self.thresholds).astype(np.uint32),
            "layer_peak": unit.max(axis=0, initial=0),
            "nonfinite": np.array(nonfinite),
        }
        if self.others:
            cells = (counts_at_least(tensor, self.thresholds) for tensor in tensors)
            partial["cell_hits"] = sum(cells, start=np.zeros((), np.int64)).astype(np.uint32)
        return partial

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {
            name: np.maximum(held, second[name]) if name == "layer_peak" else held + second[name]
            for name, held in first.items()
        }


@dataclass(frozen=True)
class LayerLevels(_OfLayers):
    """By layer and sequence: ``level`` (feature,), the largest magnitude at which the layer has ``minimum`` hits, 0
    where it has fewer positions; ``layer_peak`` (feature,) and ``nonfinite``."""

    minimum: Minimum = ONE_HIT

    name: ClassVar[str] = "layer_levels"
    in_parts: ClassVar[bool] = False

    def partial_bytes(self, rows: int, features: int) -> int:
        return 8 * features + 8

    def chunk(self, piece: Piece) -> Partial:
        unit, _, nonfinite = _unit(piece, self.others)
        needed = self.minimum.of(len(unit))
        peak = unit.max(axis=0, initial=0)
        level = np.zeros_like(peak) if needed > len(unit) else peak if needed == 1 else kth_largest(unit, needed)
        return {"level": level, "layer_peak": peak, "nonfinite": np.array(nonfinite)}

    def combine(self, first: Partial, second: Partial) -> Partial:
        raise AssertionError("a layer of a sequence is one piece: there are no two to combine")


@dataclass(frozen=True)
class UnitPositionPeaks(_OfLayers):
    """``position_peak`` (row, feature): the largest magnitude over layers, by sequence and part of its positions."""

    name: ClassVar[str] = "unit_position_peaks"
    keeps: ClassVar[frozenset[str]] = frozenset({"sequence", "start"})

    def partial_bytes(self, rows: int, features: int) -> int:
        return 8 * rows * features

    def chunk(self, piece: Piece) -> Partial:
        return {"position_peak": _unit(piece, self.others)[0]}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {"position_peak": np.maximum(first["position_peak"], second["position_peak"])}
