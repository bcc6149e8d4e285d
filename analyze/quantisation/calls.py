"""How many outlier columns LLM.int8() keeps in 16 bits, against how many tokens it sees in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analyze.quantisation.tensor import BLOCK_VALUES, Memory

__all__ = ["Calls", "columns_by_call", "joined_calls", "sizes_within"]

Values = npt.NDArray[np.float32]
Packed = npt.NDArray[np.uint8]
Calls = dict[int, tuple[int, int]]
"""By tokens in a call: outlier columns, added up over the calls, and how many calls those are."""


def sizes_within(most: int) -> list[int]:
    """1, 2, 4, ... below ``most``, and ``most`` itself.

    >>> sizes_within(12), sizes_within(8), sizes_within(1)
    ([1, 2, 4, 8, 12], [1, 2, 4, 8], [1])
    """
    return [] if most < 1 else [2**i for i in range((most - 1).bit_length())] + [most]


def columns_by_call(values: Values, alpha: np.float32) -> tuple[npt.NDArray[np.int64], Packed]:
    """Outlier columns of the calls in one sequence, and the columns of the whole of it as packed bits.

    ``values``: (token, feature); infinite ones reach every ``alpha``, NaN none. A call is n tokens that follow each
    other, and its outlier columns are those in which one of them reaches ``alpha`` in magnitude. For each n of
    ``sizes_within(tokens)`` the columns are added up over the ``tokens // n`` calls that n tokens at a time make of
    the sequence, (size,) int64: a last one with fewer tokens is left out.

    >>> values = np.array([[7, 0, 1], [0, -6, 0], [5, 9, 0]], np.float32)
    >>> columns_by_call(values, np.float32(6))[0].tolist()  # 1 + 1 + 1 in calls of one token, 2 of two, 2 of three
    [3, 2, 2]
    """
    packed = _packed(values, alpha)
    whole = np.bitwise_or.reduce(packed, axis=0)
    found = []
    for size in sizes_within(len(values)):
        found.append(_columns(whole if size == len(values) else packed))
        packed = _paired(packed)
    return np.array(found, np.int64), whole


def _packed(values: Values, alpha: np.float32) -> Packed:
    """(token, feature / 8): where values reach ``alpha``, 8 to a byte."""
    tokens, features = values.shape
    packed, held = np.empty((tokens, -(-features // 8)), np.uint8), Memory()
    step = max(1, BLOCK_VALUES // features)
    for start in range(0, tokens, step):
        block = values[start : start + step]
        magnitudes = np.abs(block, out=held.array("magnitudes", block.shape, block.dtype))
        with np.errstate(invalid="ignore"):
            hits = np.greater_equal(magnitudes, alpha, out=held.array("hits", block.shape, np.bool_))
        packed[start : start + step] = np.packbits(hits, axis=1)
    return packed


def joined_calls(sequences: Sequence[Packed | None]) -> Calls:
    """Outlier columns of calls of 2, 4, ... and of all sequences, keyed by how many those are.

    Each as ``columns_by_call`` packs it; one that is None takes the calls that it is part of away.
    """
    width = max((sequence.size for sequence in sequences if sequence is not None), default=0)
    blank = np.zeros(width, np.uint8)
    packed = np.stack([blank if sequence is None else sequence for sequence in sequences])
    present = np.array([sequence is not None for sequence in sequences])
    whole, complete, found = np.bitwise_or.reduce(packed, axis=0), bool(present.all()), {}
    for size in sizes_within(len(sequences))[1:]:
        packed, present = _paired(packed), _paired_present(present)
        if size == len(sequences):
            found[size] = (_columns(whole) if complete else 0, int(complete))
        else:
            found[size] = (_columns(packed[present]), int(present.sum()))
    return found


def _paired(packed: Packed) -> Packed:
    """Each two rows as one, an odd last one left out."""
    even = len(packed) // 2 * 2
    paired: Packed = packed[0:even:2] | packed[1:even:2]
    return paired


def _paired_present(present: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    even = len(present) // 2 * 2
    both: npt.NDArray[np.bool_] = present[0:even:2] & present[1:even:2]
    return both


def _columns(packed: Packed) -> int:
    return int(np.bitwise_count(packed).sum(dtype=np.int64))
