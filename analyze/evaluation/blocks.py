"""Hits and largest values of blocks: a layer's tensors at all chosen sites as one, at each place the largest magnitude.

A pass is given the first site's pieces, and the others are read beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.criteria.top_values import TopValues
from analyze.gain import quotient_patterns
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.hits import hits_of
from analyze.statistics.piece import Piece
from analyze.statistics.position_hits import PositionHits
from analyze.statistics.statistic import Partial
from schemas.bits import ENCODINGS, decode, magnitude_bits
from schemas.errors import InputError

__all__ = ["BlockExceedances", "BlockPositionHits", "BlockTopValues", "block_of"]

Patterns = npt.NDArray[Any]


def block_of(piece: Piece, others: tuple[str, ...], *, nearest: bool = False) -> Piece:
    """The block of a piece and of ``others``, arrays of the layer's other sites: magnitudes, NaN where all of them are.

    In gain units it holds quotients, as float32 rounded towards zero as hits are, or to the ``nearest`` as values are.
    """
    encoding = ENCODINGS["float32"] if piece.in_gain_units else piece.encoding
    quiet = encoding.unsigned.type(encoding.infinity + 1)
    largest = absent = None
    for array in (piece.array, *others):
        magnitudes = magnitude_bits(_patterns(piece, array, nearest), encoding)
        nan = magnitudes > encoding.infinity
        magnitudes[nan] = 0
        largest = magnitudes if largest is None else np.maximum(largest, magnitudes, out=largest)
        absent = nan if absent is None else np.logical_and(absent, nan, out=absent)
    assert largest is not None
    largest[absent] = quiet
    return replace(piece, stored=largest.view(encoding.stored), encoding=encoding, in_gain_units=False, norm=None)


def _patterns(piece: Piece, array: str, nearest: bool) -> Patterns:
    """Patterns with signs of one of the block's tensors."""
    own = piece
    if array != piece.array:
        stored = piece.beside(array)
        if stored is None:
            raise InputError(f"the store has no array {array!r}")
        own = replace(piece, array=array, stored=stored)
    if not own.in_gain_units:
        return own.patterns
    if nearest:
        return own.values.view(ENCODINGS["float32"].unsigned)
    return quotient_patterns(decode(own.stored, own.encoding), own.gain)


@dataclass(frozen=True)
class _OfBlocks:
    """What a statistic of blocks is told beside its own parameters: the arrays of the layer's other sites."""

    others: tuple[str, ...] = ()

    @property
    def beside(self) -> tuple[str, ...]:
        return self.others


@dataclass(frozen=True)
class BlockExceedances(_OfBlocks, Exceedances):
    """``Exceedances`` of blocks, under the name of their first site."""

    name: ClassVar[str] = "block-exceedances"
    bytes_per_value: ClassVar[int] = 40

    def chunk(self, piece: Piece) -> Partial:
        block = block_of(piece, self.others)
        if piece.in_gain_units:  # each magnitude by itself, as of a cell in gain units
            return self.of_hits(hits_of(block, self.magnitudes, by="feature").T, block)
        return super().chunk(block)


@dataclass(frozen=True)
class BlockPositionHits(_OfBlocks, PositionHits):
    """``PositionHits`` of blocks, under the name of their first site."""

    name: ClassVar[str] = "block-position-hits"
    bytes_per_value: ClassVar[int] = 40

    def chunk(self, piece: Piece) -> Partial:
        return super().chunk(block_of(piece, self.others))


@dataclass(frozen=True)
class BlockTopValues(_OfBlocks, TopValues):
    """``TopValues`` of blocks, under the name of their first site."""

    name: ClassVar[str] = "block-top-values"
    bytes_per_value: ClassVar[int] = 64

    def chunk(self, piece: Piece) -> Partial:
        return super().chunk(block_of(piece, self.others, nearest=True))
