"""Errors that formats make on one tensor: sums in float64 over blocks of rows, or over its distinct values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.quantisation.formats import Format
from analyze.quantisation.tensor import Block, Extent, Memory, Settings, blocks_of, measure_extent

__all__ = ["Distinct", "tensor_errors"]

Values = npt.NDArray[Any]
Positions = npt.NDArray[np.int64]

_LARGEST_IN_FLOAT32 = 2.0**110
"""Beyond it ``largest * x`` could overflow float32."""


@dataclass(frozen=True)
class Distinct:
    """The distinct finite values of a tensor: (n,) float32, and (n, 2) how often at position 0 and elsewhere."""

    values: Values
    counts: npt.NDArray[np.int64]


def tensor_errors(
    values: npt.NDArray[np.float32],
    position: Positions,
    formats: Sequence[Format],
    settings: Settings,
    *,
    double: bool = False,
    distinct: Distinct | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Sums over one tensor (position, feature), at position 0 (index 0 of the last axis) and elsewhere (index 1).

    Of the tensor, shape (2,): ``values`` that are finite, ``nonfinite`` ones, ``nonzero`` ones (int64), ``signal``, the
    sum of x^2, and ``magnitude``, that of |x| (float64). Of each format, shape (format, 2): ``noise``, the sum of the
    squared errors, ``error``, that of the absolute ones (float64), ``flushed``, values that became zero, and
    ``clipped``, values held at the format's largest (int64). ``double``: compute in float64 throughout, as values
    with more than 11 significant bits need. ``distinct``, of 16-bit values: elementwise formats look at those alone.
    """
    sums = _Sums(len(formats))
    if not values.size:
        return sums.found
    extent = measure_extent(values, settings.alpha)
    finite = extent.finite
    if finite is not None:
        values = np.where(finite, values, np.float32(0))
    if double or extent.peak >= _LARGEST_IN_FLOAT32:
        values = values.astype(np.float64)
    once = [i for i, entry in enumerate(formats) if distinct is not None and entry.elementwise]
    others = [i for i in range(len(formats)) if i not in once]
    held = Memory()
    for rows, first in blocks_of(position, values.shape[1]):
        block = Block(values[rows], None if finite is None else finite[rows], held)
        where = 0 if first else 1
        sums.add_signal(block, where)
        for i in others:
            sums.add_errors(i, where, formats[i], block, extent, settings)
    if distinct is not None:
        for i in once:
            sums.add_distinct(i, formats[i], distinct, extent, settings)
    return sums.found


class _Sums:
    """The sums of one tensor."""

    def __init__(self, formats: int) -> None:
        self.found = {
            **{name: np.zeros(2, np.int64) for name in ("values", "nonfinite", "nonzero")},
            **{name: np.zeros(2) for name in ("signal", "magnitude")},
            **{name: np.zeros((formats, 2)) for name in ("noise", "error")},
            **{name: np.zeros((formats, 2), np.int64) for name in ("flushed", "clipped")},
        }

    def add_signal(self, block: Block, where: int) -> None:
        """What the block itself sums to."""
        size = block.values.size
        finite = size if block.finite is None else int(np.count_nonzero(block.finite))
        self.found["values"][where] += finite
        self.found["nonfinite"][where] += size - finite
        self.found["nonzero"][where] += size - block.zeros
        self._add("magnitude", "signal", where, block.magnitudes, block)

    def _add(self, linear: str, square: str, where: int | tuple[int, int], values: Values, block: Block) -> None:
        """Add the sums of ``|values|`` and of their squares, in float64 and in one order."""
        wide = block.memory("wide", np.float64)
        np.abs(values, out=wide)
        flat = wide.ravel()
        self.found[linear][where] += flat.sum()
        self.found[square][where] += np.einsum("i,i->", flat, flat)

    def add_errors(self, i: int, where: int, entry: Format, block: Block, extent: Extent, settings: Settings) -> None:
        """What format ``i`` makes of the block."""
        if entry.double:
            block = block.double
        out, scratch = (block.memory(name, block.values.dtype) for name in ("out", "scratch"))
        clipped = entry.kernel(block, extent, settings, out, scratch)
        if block.finite is not None:
            out[~block.finite] = 0
            if clipped is not None:
                clipped &= block.finite
        became_zero = np.equal(out, 0, out=block.memory("became zero", np.bool_))
        self.found["flushed"][i, where] += np.count_nonzero(became_zero) - block.zeros  # 0 always becomes 0
        self.found["clipped"][i, where] += 0 if clipped is None else np.count_nonzero(clipped)
        np.subtract(block.values, out, out=out)
        self._add("error", "noise", (i, where), out, block)

    def add_distinct(self, i: int, entry: Format, distinct: Distinct, extent: Extent, settings: Settings) -> None:
        """What format ``i`` makes of the tensor whose distinct values are given with their counts."""
        block = Block(distinct.values[np.newaxis].astype(np.float64))
        out, scratch = np.empty_like(block.values), np.empty_like(block.values)
        clipped = entry.kernel(block, extent, settings, out, scratch)
        flushed = ((out == 0) & (block.values != 0))[0]
        errors = np.abs(block.values - out)[0]
        counts = distinct.counts
        self.found["flushed"][i] = counts[flushed].sum(axis=0)
        self.found["clipped"][i] = 0 if clipped is None else counts[clipped[0]].sum(axis=0)
        for where in (0, 1):
            self.found["error"][i, where] = (counts[:, where] * errors).sum()
            self.found["noise"][i, where] = (counts[:, where] * errors * errors).sum()
