"""The grids that values are rounded to, as data: integers of eight bits and the small floating-point formats.

Rounding is to nearest, ties to even, on the endless grid; what lies beyond the largest value is then held at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["E2M1", "E4M3", "E5M2", "INT8", "Grid", "round_to_grid", "saturate"]

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Values that a format can hold, up to ``largest`` in magnitude.

    ``mantissa_bits`` and ``least_exponent``, that of the smallest normal value, make a floating-point grid, subnormal
    values included; without them every integer is on the grid.
    """

    name: str
    largest: float
    mantissa_bits: int | None = None
    least_exponent: int = 0


INT8 = Grid("INT8", 127.0)
"""Integers from -127 to 127."""
E4M3 = Grid("E4M3", 448.0, 3, -6)
"""FP8 with 4 bits of exponent and 3 of mantissa, as OCP defines it: no infinity."""
E5M2 = Grid("E5M2", 57344.0, 2, -14)
"""FP8 with 5 bits of exponent and 2 of mantissa; its infinity is not used."""
E2M1 = Grid("E2M1", 6.0, 1, 0)
"""FP4 of OCP: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives."""

_LAYOUTS: dict[str, tuple[Any, int, int]] = {
    "float32": (np.uint32, 0x7F800000, 23),
    "float64": (np.uint64, 0x7FF0000000000000, 52),
}
"""Of an arithmetic: integers of its size, the bits of its exponent, how many bits its mantissa has."""


def round_to_grid(values: Values, grid: Grid, scratch: Values) -> None:
    """Round finite float32 or float64 ``values`` to the endless ``grid``, in place and exactly.

    ``scratch`` has the same shape and dtype and is overwritten. In binade e the grid's step is 2^(e - m), with m bits
    of mantissa. Adding 1.5 * 2^(e - m) * 2^23 (float64: 2^52) puts a value where float32's own step is that one, so
    the sum is rounded to it, ties to even; taking the same away again is exact.

    >>> values = np.array([5.0, 0.25, -0.75, 7.0, 6.9], np.float32)
    >>> round_to_grid(values, E2M1, np.empty_like(values))
    >>> values.tolist()
    [4.0, 0.0, -1.0, 8.0, 6.0]
    """
    if grid.mantissa_bits is None:
        np.rint(values, out=values)
        return
    integers, exponent, mantissa = _LAYOUTS[values.dtype.name]
    real = values.dtype.type
    np.bitwise_and(values.view(integers), integers(exponent), out=scratch.view(integers))
    np.maximum(scratch, real(2.0**grid.least_exponent), out=scratch)
    np.multiply(scratch, real(1.5 * 2.0 ** (mantissa - grid.mantissa_bits)), out=scratch)
    np.add(values, scratch, out=values)
    np.subtract(values, scratch, out=values)


def saturate(values: Values, grid: Grid, scratch: Values, beyond: Mask) -> None:
    """Hold ``values`` within the ``grid``'s largest, in place; ``beyond`` becomes true where they were not.

    ``scratch`` has the same shape and dtype and is overwritten.
    """
    largest = values.dtype.type(grid.largest)
    np.greater(np.abs(values, out=scratch), largest, out=beyond)
    if beyond.any():
        np.clip(values, -largest, largest, out=values)
