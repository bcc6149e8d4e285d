"""Quantise and dequantise blocks of a tensor: a function for each family of formats, in NumPy, in place.

Each writes what a block's values become into ``out`` and returns which of them saturated, None for none. No scale that
is a ratio is rounded: ``largest * x / peak`` is, once, and finer by far than such ratios of stored values can be near
a tie without being one. So values go where exact arithmetic takes them (docs/decisions/055).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analyze.quantisation.grids import E2M1, E4M3, INT8, Grid, round_to_grid, saturate
from analyze.quantisation.tensor import Block, Extent, Settings

__all__ = ["Kernel", "absmax", "llm_int8", "microscaled", "nvfp4", "zeropoint"]

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Kernel = Callable[[Block, Extent, Settings, Values, Values], Mask | None]
"""``kernel(block, extent, settings, out, scratch)``: the last two have the block's shape and dtype."""

_E8M0_LEAST, _E8M0_LARGEST = -127, 127
_NVFP4_WIDTH = 16


def absmax(per: Literal["tensor", "token", "channel", "group"], grid: Grid) -> Kernel:
    """Scaled so that the largest magnitude of each tensor, token, channel or group lands on the grid's largest."""

    def kernel(block: Block, extent: Extent, settings: Settings, out: Values, scratch: Values) -> Mask | None:
        if per == "tensor":
            peak = np.full((1, 1), extent.peak, out.dtype)
        elif per == "token":
            peak = block.token_peak
        elif per == "channel":
            peak = extent.column_peak.astype(out.dtype)[np.newaxis]
        else:
            peak = _spread(_group_peak(block, settings.group_size), settings.group_size, out)
        _scaled(block.values, peak, grid, out, scratch)
        return None

    return kernel


def _scaled(values: Values, peak: Values, grid: Grid, out: Values, scratch: Values) -> None:
    """``out`` = peak / largest * round(largest * values / peak), and 0 where the peak is; nothing can saturate."""
    largest = out.dtype.type(grid.largest)
    divisor = np.where(peak == 0, out.dtype.type(1), peak)
    np.multiply(values, largest, out=out)
    np.divide(out, divisor, out=out)
    round_to_grid(out, grid, scratch)
    np.multiply(out, divisor, out=out)
    np.divide(out, largest, out=out)


def _group_peak(block: Block, width: int) -> Values:
    """The largest magnitude of each ``width`` features of a row: (position, group); the last may have fewer."""
    starts = np.arange(0, block.values.shape[1], width)
    peak: Values = np.maximum.reduceat(block.magnitudes, starts, axis=1)
    return peak


def _spread(scale: Values, width: int, like: Values) -> Values:
    """(position, group) as (position, feature): one long row is faster to divide by than many short groups."""
    features = like.shape[1]
    return np.repeat(scale, min(width, features), axis=1)[:, :features]  # a group larger than the row is the row


def zeropoint(per: Literal["tensor", "token"]) -> Kernel:
    """The asymmetric int8 of LLM.int8(), section 2.1: the range of the values onto -127 to 127; float64 alone."""

    def kernel(block: Block, extent: Extent, settings: Settings, out: Values, scratch: Values) -> Mask | None:
        low, high = (
            (np.full((1, 1), extent.low), np.full((1, 1), extent.high)) if per == "tensor" else block.token_range
        )
        constant = high == low
        spread = np.where(constant, 1.0, high - low)
        np.multiply(block.values, 254.0, out=out)
        np.divide(out, spread, out=out)
        np.rint(out, out=out)
        top = np.rint(254.0 * low / spread) + 254.0
        beyond = np.greater(out, top, out=block.memory("beyond", np.bool_))
        np.minimum(out, top, out=out)
        np.multiply(out, spread, out=out)
        np.divide(out, 254.0, out=out)
        if constant.any():  # one value, which takes no range to tell
            np.copyto(out, block.values, where=constant)
            np.copyto(beyond, False, where=constant)
        return beyond

    return kernel


def llm_int8(block: Block, extent: Extent, settings: Settings, out: Values, scratch: Values) -> Mask | None:
    """Outlier columns as they are; of the others each token by its own largest magnitude to int8."""
    peak = block.token_peak
    if extent.outliers.any():
        np.copyto(scratch, block.magnitudes)
        np.copyto(scratch, 0, where=extent.outliers)
        peak = scratch.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # in columns that are then put back
        _scaled(block.values, peak, INT8, out, scratch)
    np.copyto(out, block.values, where=extent.outliers)
    return None


def microscaled(width: int, grid: Grid) -> Kernel:
    """MX of OCP: a power of two for each block, floor(log2 peak) less the exponent of the grid's largest value."""
    largest_exponent = math.floor(math.log2(grid.largest))

    def kernel(block: Block, extent: Extent, settings: Settings, out: Values, scratch: Values) -> Mask | None:
        one, beyond = out.dtype.type(1), block.memory("beyond", np.bool_)
        above = np.frexp(_group_peak(block, width))[1]  # floor(log2 peak) + 1
        exponent = np.clip(above - 1 - largest_exponent, _E8M0_LEAST, _E8M0_LARGEST)
        np.multiply(block.values, _spread(np.ldexp(one, -exponent), width, out), out=out)
        round_to_grid(out, grid, scratch)
        saturate(out, grid, scratch, beyond)
        np.multiply(out, _spread(np.ldexp(one, exponent), width, out), out=out)
        return beyond

    return kernel


def nvfp4(block: Block, extent: Extent, settings: Settings, out: Values, scratch: Values) -> Mask | None:
    """NVFP4: E2M1 in blocks of 16, whose scale is E4M3, relative to one float32 of the tensor; float64 alone."""
    whole = float(np.float32(extent.peak / (E2M1.largest * E4M3.largest)))
    if whole == 0:
        out[:] = 0
        return None
    scale = _group_peak(block, _NVFP4_WIDTH) / (E2M1.largest * whole)
    round_to_grid(scale, E4M3, np.empty_like(scale))
    np.minimum(scale, E4M3.largest, out=scale)
    scale *= whole
    scale[scale == 0] = 2.0**500  # all of such a block becomes 0
    spread, beyond = _spread(scale, _NVFP4_WIDTH, out), block.memory("beyond", np.bool_)
    np.divide(block.values, spread, out=out)
    round_to_grid(out, E2M1, scratch)
    saturate(out, E2M1, scratch, beyond)
    np.multiply(out, spread, out=out)
    return beyond
