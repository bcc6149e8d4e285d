"""Magnitudes as bit patterns: exact thresholds, peaks and decoding for bfloat16, float16 and float32.

A stored value keeps the bits the model computed. With its sign cleared, an IEEE bit pattern read as an unsigned
integer orders like the magnitude it stands for, so "``|x| >= m`` in real arithmetic" becomes one integer
comparison against the smallest pattern whose value is not below ``m``. Infinity is the largest such pattern that
counts; every NaN lies above it and never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import InputError

__all__ = [
    "ENCODINGS",
    "Encoding",
    "decode",
    "encoding_named",
    "hits",
    "magnitude_bits",
    "magnitude_value",
    "nonfinite_count",
    "peak_bits",
    "threshold_bits",
]

BitArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Encoding:
    """How one floating-point format is laid out in the store.

    ``stored`` is the array's dtype on disk; ``unsigned`` the integer dtype its patterns are compared in.
    """

    name: str
    stored: np.dtype[Any]
    unsigned: np.dtype[Any]
    mantissa_bits: int
    exponent_bits: int

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return self.unsigned.itemsize

    @property
    def sign_mask(self) -> int:
        """Pattern of the sign bit alone."""
        return 1 << (self.mantissa_bits + self.exponent_bits)

    @property
    def infinity(self) -> int:
        """Pattern of positive infinity: the largest one that is a magnitude."""
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits

    @property
    def nan(self) -> int:
        """Pattern of the quiet NaN that fills what was never written."""
        return self.infinity | (1 << (self.mantissa_bits - 1))

    @property
    def fill(self) -> int | float:
        """Fill value of the stored array: a NaN in its own dtype."""
        return self.nan if self.stored.kind == "u" else float("nan")


def _encoding(name: str, stored: str, mantissa_bits: int, exponent_bits: int) -> Encoding:
    dtype = np.dtype(stored)
    return Encoding(name, dtype, np.dtype(f"u{dtype.itemsize}"), mantissa_bits, exponent_bits)


ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        "bfloat16": _encoding("bfloat16", "uint16", 7, 8),
        "float16": _encoding("float16", "uint16", 10, 5),
        "float32": _encoding("float32", "float32", 23, 8),
    }
)


def encoding_named(name: str) -> Encoding:
    """The encoding called ``name``; raises InputError, naming the known ones, for any other."""
    try:
        return ENCODINGS[name]
    except KeyError:
        known = ", ".join(ENCODINGS)
        raise InputError(f"no encoding is called {name!r}; known encodings: {known}") from None


def magnitude_value(pattern: int, encoding: Encoding) -> Fraction:
    """The exact value of a finite sign-cleared pattern; raises ValueError for infinity and NaN."""
    if not 0 <= pattern < encoding.infinity:
        raise ValueError(f"pattern {pattern:#x} is not a finite {encoding.name} magnitude")
    bias = (1 << (encoding.exponent_bits - 1)) - 1
    exponent, mantissa = divmod(pattern, 1 << encoding.mantissa_bits)
    if exponent:
        mantissa += 1 << encoding.mantissa_bits
    scale = max(exponent, 1) - bias - encoding.mantissa_bits
    return Fraction(mantissa) * Fraction(2) ** scale


def threshold_bits(magnitude: Fraction, encoding: Encoding) -> int:
    """The smallest sign-cleared pattern whose value is at least ``magnitude``, found in exact arithmetic.

    Infinity's pattern where no finite value reaches ``magnitude``. Raises InputError for a negative one.

    >>> from fractions import Fraction
    >>> hex(threshold_bits(Fraction(6), ENCODINGS["bfloat16"]))
    '0x40c0'
    >>> hex(threshold_bits(Fraction("6.001"), ENCODINGS["bfloat16"]))  # the next one, 6.03125
    '0x40c1'
    """
    if magnitude < 0:
        raise InputError(f"magnitude {magnitude} is negative; a magnitude is at least 0")
    if magnitude == 0:
        return 0
    above, below = magnitude.numerator, magnitude.denominator
    bias = (1 << (encoding.exponent_bits - 1)) - 1
    exponent = above.bit_length() - below.bit_length()  # floor(log2), or one more than that
    if (above << max(-exponent, 0)) < (below << max(exponent, 0)):
        exponent -= 1
    exponent = max(exponent, 1 - bias)  # below the smallest normal value, steps are those of the subnormal ones
    shift = encoding.mantissa_bits - exponent
    steps = -(-(above << max(shift, 0)) // (below << max(-shift, 0)))
    return min(((exponent + bias - 1) << encoding.mantissa_bits) + steps, encoding.infinity)


def magnitude_bits(stored: BitArray, encoding: Encoding) -> BitArray:
    """Sign-cleared patterns of ``stored``: same shape, unsigned integers. NaN patterns stay above infinity's."""
    patterns = np.ascontiguousarray(stored).view(encoding.unsigned).reshape(np.shape(stored))
    cleared: BitArray = patterns & encoding.unsigned.type(encoding.sign_mask - 1)
    return cleared


def hits(stored: BitArray, threshold: int, encoding: Encoding) -> npt.NDArray[np.bool_]:
    """True where ``|value|`` reaches the pattern ``threshold``; infinities do, NaN does not. Same shape."""
    magnitudes = magnitude_bits(stored, encoding)
    reached: npt.NDArray[np.bool_] = (magnitudes >= threshold) & (magnitudes <= encoding.infinity)
    return reached


def peak_bits(stored: BitArray, axis: int | tuple[int, ...], encoding: Encoding) -> BitArray:
    """The largest magnitude along ``axis`` as a sign-cleared pattern; NaN is passed over, 0 where all are NaN."""
    magnitudes = magnitude_bits(stored, encoding)
    np.copyto(magnitudes, encoding.unsigned.type(0), where=magnitudes > encoding.infinity)
    peak: BitArray = magnitudes.max(axis=axis)
    return peak


def nonfinite_count(stored: BitArray, encoding: Encoding) -> int:
    """How many values are NaN or infinite."""
    return int(np.count_nonzero(magnitude_bits(stored, encoding) >= encoding.infinity))


def decode(stored: BitArray, encoding: Encoding) -> npt.NDArray[np.float32]:
    """``stored`` as float32, which holds every value of the three encodings exactly. Same shape; NaN stays NaN."""
    stored = np.asarray(stored)
    decoded: npt.NDArray[np.float32]
    if encoding.name == "bfloat16":
        widened = stored.astype(np.uint32)
        np.left_shift(widened, np.uint32(16), out=widened)
        decoded = widened.view(np.float32)
    elif encoding.name == "float16":
        decoded = np.ascontiguousarray(stored).view(np.float16).reshape(stored.shape).astype(np.float32)
    else:
        decoded = np.ascontiguousarray(stored).view(np.float32).reshape(stored.shape)
    return decoded
