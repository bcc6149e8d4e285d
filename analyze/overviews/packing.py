"""Integers packed into text: LEB128 in zlib in base 85, which a browser unpacks with DecompressionStream("deflate")."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["packed", "packed_text", "unpacked", "unpacked_text"]

_BITS = 7
_TO_PAGE = bytes.maketrans(b"&<>", b".,:")
_FROM_PAGE = bytes.maketrans(b".,:", b"&<>")
"""RFC 1924's letters but three, so that what is packed is the same in JSON and in HTML."""


def packed(arrays: Sequence[npt.ArrayLike]) -> str:
    """Lists of integers from 0 to 2^35 - 1 as text, a word for each list.

    >>> unpacked(packed([[1, 300], []]))
    [[1, 300], []]
    """
    return " ".join(_word(np.asarray(array, np.int64).ravel()) for array in arrays)


def unpacked(text: str) -> list[list[int]]:
    """The lists that ``packed`` made the text of."""
    found = []
    for word in text.split(" "):
        numbers: list[int] = []
        value = shift = 0
        for byte in zlib.decompress(base64.b85decode(word.encode().translate(_FROM_PAGE))):
            value |= (byte & 127) << shift
            shift += _BITS
            if byte < 128:
                numbers.append(value)
                value = shift = 0
        found.append(numbers)
    return found


def packed_text(text: str) -> str:
    """A text as one word.

    >>> unpacked_text(packed_text("a <b> & c"))
    'a <b> & c'
    """
    return base64.b85encode(_deflated(text.encode(), 8, zlib.Z_DEFAULT_STRATEGY)).translate(_TO_PAGE).decode()


def unpacked_text(word: str) -> str:
    """The text that ``packed_text`` made the word of."""
    return zlib.decompress(base64.b85decode(word.encode().translate(_FROM_PAGE))).decode()


def _word(numbers: npt.NDArray[np.int64]) -> str:
    if numbers.size and (numbers.min() < 0 or numbers.max() >= 1 << 5 * _BITS):
        raise ValueError("packed integers are from 0 to 2^35 - 1")
    data = _leb128(numbers)
    # Noise is coded best letter by letter, each short block with a code of its own.
    kinds = ((8, zlib.Z_DEFAULT_STRATEGY), (6, zlib.Z_HUFFMAN_ONLY))
    return base64.b85encode(min((_deflated(data, *kind) for kind in kinds), key=len)).translate(_TO_PAGE).decode()


def _deflated(data: bytes, memory_level: int, strategy: int) -> bytes:
    making = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, memory_level, strategy)
    return making.compress(data) + making.flush()


def _leb128(numbers: npt.NDArray[np.int64]) -> bytes:
    """Seven bits a byte, the least first; the eighth says that more follow."""
    lengths = np.ones(numbers.size, np.int64)
    for i in range(1, 5):
        lengths += numbers >= 1 << _BITS * i
    starts = np.concatenate([[0], np.cumsum(lengths)])
    stream = np.empty(int(starts[-1]), np.uint8)
    for i in range(5):
        here: npt.NDArray[Any] = np.flatnonzero(lengths > i)
        more = np.where(lengths[here] > i + 1, 128, 0)
        stream[starts[here] + i] = ((numbers[here] >> _BITS * i) & 127) | more
    return stream.tobytes()
