"""One tensor as quantisation sees it: what is known of it as a whole, and its rows in blocks that fit a cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK_VALUES", "Block", "Extent", "Memory", "Settings", "blocks_of", "measure_extent"]

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

BLOCK_VALUES = 2**16
"""Most values of a block: it and its intermediate results then stay in a core's own cache."""


@dataclass(frozen=True)
class Settings:
    """What a question may set: values in a group of ``int8-absmax-group``, the threshold of ``llm-int8``.

    ``alpha`` is the smallest float32 that is not below the threshold, so that comparing with it is exact.
    """

    group_size: int
    alpha: np.float32


@dataclass(frozen=True)
class Extent:
    """Of one tensor's finite values: the largest magnitude, the least and the largest value, 0 of nothing.

    ``finite``: (position, feature), which values are; None where all are. ``column_peak``: (feature,) largest
    magnitudes; ``outliers``: (feature,) true where a value, finite or infinite, reaches the threshold of ``llm-int8``.
    """

    peak: float
    low: float
    high: float
    finite: Mask | None
    column_peak: Values
    outliers: Mask


class Memory:
    """Arrays by name, in memory that the next array of that name uses again: fresh pages cost more than arithmetic."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, Any], Values] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Values:
        """An array of undefined content, valid until the next of this name and dtype."""
        size = math.prod(shape)
        held = self._held.get((name, dtype))
        if held is None or held.size < size:
            held = self._held[name, dtype] = np.empty(size, dtype)
        return held[:size].reshape(shape)


@dataclass(frozen=True)
class Block:
    """Some rows of a tensor: (position, feature) float32 or float64 ``values``, non-finite ones replaced by 0.

    ``finite`` tells which those are not; None where all are finite. What is derived lies in ``held``, so that of the
    blocks that share it only the latest is valid.
    """

    values: Values
    finite: Mask | None = None
    held: Memory = field(default_factory=Memory)

    def memory(self, name: str, dtype: Any) -> Values:
        """An array of this shape, of undefined content, valid until the next of this name and dtype."""
        return self.held.array(name, self.values.shape, dtype)

    @cached_property
    def magnitudes(self) -> Values:
        """Absolute values: same shape and dtype."""
        return np.abs(self.values, out=self.memory("magnitudes", self.values.dtype))

    @cached_property
    def token_peak(self) -> Values:
        """The largest magnitude of each row: (position, 1)."""
        peak: Values = self.magnitudes.max(axis=1, keepdims=True)
        return peak

    @cached_property
    def zeros(self) -> int:
        """How many values are 0, those among them that stand for non-finite ones."""
        return int(np.count_nonzero(np.equal(self.values, 0, out=self.memory("zeros", np.bool_))))

    @cached_property
    def token_range(self) -> tuple[Values, Values]:
        """The least and the largest finite value of each row: (position, 1) each, 0 where there is none."""
        if self.finite is None:
            return self.values.min(axis=1, keepdims=True), self.values.max(axis=1, keepdims=True)
        low = self.values.min(axis=1, keepdims=True, where=self.finite, initial=np.inf)
        high = self.values.max(axis=1, keepdims=True, where=self.finite, initial=-np.inf)
        some = self.finite.any(axis=1, keepdims=True)
        return np.where(some, low, 0), np.where(some, high, 0)

    @cached_property
    def double(self) -> Block:
        """The same in float64."""
        if self.values.dtype == np.float64:
            return self
        values = self.memory("double", np.float64)
        np.copyto(values, self.values)
        return Block(values, self.finite, self.held)


def measure_extent(values: Values, alpha: np.float32) -> Extent:
    """The extent of (position, feature) float32 ``values``, which may be non-finite; zeros where none is finite."""
    with np.errstate(invalid="ignore"):
        low, high = values.min(axis=0), values.max(axis=0)  # a NaN, too, comes through both
        if np.isfinite(low).all() and np.isfinite(high).all():
            peak = np.maximum(high, -low)
            return Extent(float(peak.max()), float(low.min()), float(high.max()), None, peak, peak >= alpha)
        finite, outliers = np.isfinite(values), np.asarray((np.abs(values) >= alpha).any(axis=0))
    some = finite.any(axis=0)
    if not some.any():
        return Extent(0.0, 0.0, 0.0, finite, np.zeros(values.shape[1], values.dtype), outliers)
    low = values.min(axis=0, where=finite, initial=np.inf)
    high = values.max(axis=0, where=finite, initial=-np.inf)
    peak = np.where(some, np.maximum(high, -low), 0).astype(values.dtype)
    return Extent(float(peak.max()), float(low.min()), float(high.max()), finite, peak, outliers)


def blocks_of(position: npt.NDArray[np.integer[Any]], features: int) -> Iterator[tuple[slice, bool]]:
    """Rows in blocks of at most ``BLOCK_VALUES`` values, each with whether it is position 0, which stands alone.

    The blocks depend on the shape alone, and so does the order in which sums are added up.
    """
    most = max(1, BLOCK_VALUES // features)
    cuts = {0, len(position)}
    for row in np.flatnonzero(position == 0).tolist():
        cuts |= {row, row + 1}
    for start, stop in pairwise(sorted(cuts)):
        for row in range(start, stop, most):
            yield slice(row, min(row + most, stop)), int(position[row]) == 0
