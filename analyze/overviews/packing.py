"""Integers packed into text: LEB128 in zlib in base64, which a browser unpacks with DecompressionStream("deflate")."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["packed", "unpacked"]

_BITS = 7


def packed(arrays: Sequence[npt.ArrayLike]) -> str:
    """Lists of integers from 0 to 2^35 - 1 as text: how many lists, then of each its length and its numbers.

    >>> unpacked(packed([[1, 300], []]))
    [[1, 300], []]
    """
    parts: list[npt.ArrayLike] = [[len(arrays)]]
    for array in arrays:
        values = np.asarray(array, np.int64).ravel()
        parts += [[values.size], values]
    numbers = np.concatenate([np.asarray(part, np.int64) for part in parts])
    if numbers.min() < 0 or numbers.max() >= 1 << 5 * _BITS:
        raise ValueError("packed integers are from 0 to 2^35 - 1")
    return base64.b64encode(zlib.compress(_leb128(numbers), 9)).decode("ascii")


def unpacked(text: str) -> list[list[int]]:
    """The lists that ``packed`` made the text of."""
    numbers: list[int] = []
    value = shift = 0
    for byte in zlib.decompress(base64.b64decode(text)):
        value |= (byte & 127) << shift
        shift += _BITS
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    found, at = [], 1
    for _ in range(numbers[0]):
        size = numbers[at]
        found.append(numbers[at + 1 : at + 1 + size])
        at += 1 + size
    return found


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
