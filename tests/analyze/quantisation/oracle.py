"""What every format makes of a small tensor: loops over single values in exact fractions, written from the definitions.

Nothing here shares code with ``analyze.quantisation``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ORACLES", "Made", "float_grid", "nearest", "oracle_columns", "oracle_sums"]

Place = tuple[int, int]


def float_grid(mantissa_bits: int, least_exponent: int, binades: int) -> list[Fraction]:
    """Values of a small floating-point format by their code: subnormal ones, then ``binades`` of normal ones."""
    subnormal = [Fraction(2) ** least_exponent * Fraction(k, 2**mantissa_bits) for k in range(2**mantissa_bits)]
    normal = [
        Fraction(2) ** (least_exponent + binade) * (1 + Fraction(k, 2**mantissa_bits))
        for binade in range(binades)
        for k in range(2**mantissa_bits)
    ]
    return subnormal + normal


# One binade more than the format has, to tell what would round beyond its largest value.
E4M3 = float_grid(3, -6, 16)
E5M2 = float_grid(2, -14, 32)
E2M1 = float_grid(1, 0, 4)


def nearest(value: Fraction, grid: list[Fraction]) -> Fraction:
    """The nearest of ``grid`` to ``|value|``, of two the one with the even code, with the sign of ``value``."""
    distances = [abs(abs(value) - candidate) for candidate in grid]
    least = min(distances)
    codes = [code for code, distance in enumerate(distances) if distance == least]
    code = next(code for code in codes if len(codes) == 1 or code % 2 == 0)
    return grid[code] if value >= 0 else -grid[code]


def integer(value: Fraction) -> Fraction:
    """The nearest integer, of two the even one."""
    return Fraction(round(value))


@dataclass
class Made:
    """What became of each value, and where the format's largest was exceeded."""

    values: dict[Place, Fraction]
    clipped: set[Place]


class Tensor:
    """The finite values of a small tensor as fractions, by place."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.rows, self.features = values.shape
        self.all = values
        self.x = {
            (t, j): Fraction(float(values[t, j]))
            for t in range(self.rows)
            for j in range(self.features)
            if np.isfinite(values[t, j])
        }

    def tensor(self) -> Iterator[list[Place]]:
        yield list(self.x)

    def tokens(self) -> Iterator[list[Place]]:
        for t in range(self.rows):
            yield [place for place in self.x if place[0] == t]

    def channels(self) -> Iterator[list[Place]]:
        for j in range(self.features):
            yield [place for place in self.x if place[1] == j]

    def groups(self, width: int) -> Iterator[list[Place]]:
        for t in range(self.rows):
            for start in range(0, self.features, width):
                yield [(i, j) for i, j in self.x if i == t and start <= j < start + width]


def absmax(tensor: Tensor, sets: Iterator[list[Place]], largest: int, rounded: Callable[[Fraction], Fraction]) -> Made:
    made = Made({}, set())
    for places in sets:
        peak = max((abs(tensor.x[p]) for p in places), default=Fraction(0))
        for p in places:
            made.values[p] = rounded(tensor.x[p] * largest / peak) * peak / largest if peak else Fraction(0)
    return made


def zeropoint(tensor: Tensor, sets: Iterator[list[Place]]) -> Made:
    """In Python's own floats, and in the order of the definition."""
    made = Made({}, set())
    for places in sets:
        if not places:
            continue
        low, high = (float(pick(tensor.x[p] for p in places)) for pick in (min, max))
        for p in places:
            if low == high:
                made.values[p] = tensor.x[p]
                continue
            zp = round(254 * low / (high - low))
            q = round(254 * float(tensor.x[p]) / (high - low)) - zp - 127
            if q > 127:
                made.clipped.add(p)
            made.values[p] = Fraction(float(min(q, 127) + 127 + zp) * (high - low) / 254)
    return made


def llm_int8(tensor: Tensor, alpha: Fraction) -> Made:
    kept = set()
    for j in range(tensor.features):
        for value in tensor.all[:, j].tolist():
            if value == value and (abs(value) == float("inf") or abs(Fraction(value)) >= alpha):
                kept.add(j)
    rest = [[p for p in places if p[1] not in kept] for places in tensor.tokens()]
    made = absmax(tensor, iter(rest), 127, integer)
    made.values |= {p: x for p, x in tensor.x.items() if p[1] in kept}
    return made


def mxfp4(tensor: Tensor) -> Made:
    made = Made({}, set())
    for places in tensor.groups(32):
        peak = max((abs(tensor.x[p]) for p in places), default=Fraction(0))
        exponent = -127
        while exponent < 127 and Fraction(2) ** (exponent + 1) <= peak / 4:
            exponent += 1
        for p in places:
            element = nearest(tensor.x[p] / Fraction(2) ** exponent, E2M1)
            if abs(element) > 6:
                made.clipped.add(p)
                element = Fraction(6) if element > 0 else Fraction(-6)
            made.values[p] = element * Fraction(2) ** exponent
    return made


def nvfp4(tensor: Tensor) -> Made:
    made = Made({}, set())
    whole = Fraction(float(np.float32(float(max(map(abs, tensor.x.values()), default=Fraction(0)) / (6 * 448)))))
    for places in tensor.groups(16):
        peak = max((abs(tensor.x[p]) for p in places), default=Fraction(0))
        scale = min(nearest(min(peak / (6 * whole), Fraction(448)), E4M3), Fraction(448)) * whole if whole else whole
        for p in places:
            if scale == 0:
                made.values[p] = Fraction(0)
                continue
            element = nearest(tensor.x[p] / scale, E2M1)
            if abs(element) > 6:
                made.clipped.add(p)
                element = Fraction(6) if element > 0 else Fraction(-6)
            made.values[p] = element * scale
    return made


def e4m3(value: Fraction) -> Fraction:
    return nearest(value, E4M3)


def e5m2(value: Fraction) -> Fraction:
    return nearest(value, E5M2)


ORACLES: dict[str, Callable[[Tensor, int, Fraction], Made]] = {
    "int8-absmax-tensor": lambda t, _, __: absmax(t, t.tensor(), 127, integer),
    "int8-absmax-token": lambda t, _, __: absmax(t, t.tokens(), 127, integer),
    "int8-absmax-channel": lambda t, _, __: absmax(t, t.channels(), 127, integer),
    "int8-absmax-group": lambda t, group, __: absmax(t, t.groups(group), 127, integer),
    "int8-zeropoint-tensor": lambda t, _, __: zeropoint(t, t.tensor()),
    "int8-zeropoint-token": lambda t, _, __: zeropoint(t, t.tokens()),
    "llm-int8": lambda t, _, alpha: llm_int8(t, alpha),
    "fp8-e4m3-tensor": lambda t, _, __: absmax(t, t.tensor(), 448, e4m3),
    "fp8-e4m3-token": lambda t, _, __: absmax(t, t.tokens(), 448, e4m3),
    "fp8-e5m2-tensor": lambda t, _, __: absmax(t, t.tensor(), 57344, e5m2),
    "fp8-e5m2-token": lambda t, _, __: absmax(t, t.tokens(), 57344, e5m2),
    "mxfp4": lambda t, _, __: mxfp4(t),
    "nvfp4": lambda t, _, __: nvfp4(t),
}


def oracle_sums(values: npt.NDArray[Any], made: Made, rows: list[int]) -> dict[str, Any]:
    """What ``tensor_errors`` sums, of the rows named, exactly."""
    x = {p: value for p, value in Tensor(values).x.items() if p[0] in rows}
    errors = [abs(value - made.values[p]) for p, value in x.items()]
    return {
        "values": len(x),
        "nonfinite": len(rows) * values.shape[1] - len(x),
        "nonzero": sum(value != 0 for value in x.values()),
        "signal": float(sum(value**2 for value in x.values())),
        "magnitude": float(sum(map(abs, x.values()))),
        "noise": float(sum(error**2 for error in errors)),
        "error": float(sum(errors)),
        "flushed": sum(value != 0 and made.values[p] == 0 for p, value in x.items()),
        "clipped": sum(p in made.clipped for p in x),
    }


def oracle_columns(values: npt.NDArray[Any], alpha: Fraction) -> int:
    """Columns in which some value reaches ``alpha``."""
    found = 0
    for column in values.T.tolist():
        found += any(x == x and (abs(x) == float("inf") or abs(Fraction(x)) >= alpha) for x in column)
    return found
