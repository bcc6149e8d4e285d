"""The definitions once more, as loops over decoded values in real arithmetic: slow, and with nothing to get wrong.

Written from docs/definitions.md and not from ``analyze``: no peaks, no bit patterns, no k-th largest. A critical
magnitude is found by trying every magnitude that occurs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Answer", "Unit", "expected"]

Array = npt.NDArray[Any]
Real = Fraction | float
Cells = list[list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Unit:
    """What a counted unit must be reported as."""

    sequence: int | None
    feature: int
    layer_percent: float
    position_percent: float
    peak: float
    critical: float
    hits: int
    one_sided: bool


@dataclass(frozen=True)
class Answer:
    """What a result must say."""

    units: list[Unit]
    unique: int
    by_sequence: list[int]
    mean_layers: float | None
    mean_positions: float | None
    ties: int
    most_common: int | None
    quartiles: tuple[float, float, float] | None


def expected(
    values: list[Array], preset: str, magnitude: Fraction, layers: Fraction, positions: Fraction, sequences: list[int]
) -> Answer:
    """The answer for sites given as float32 arrays (layer, sequence, position, feature)."""
    world = _World([_exact(site) for site in values], layers, positions)
    block, features = preset == "llm-int8-block", range(values[0].shape[3])
    units = [
        unit
        for feature in features
        for unit in _units_of(world, preset, feature, magnitude, sequences)
        if unit is not None
    ]
    units.sort(key=lambda unit: (-unit[1], -1 if unit[0].sequence is None else unit[0].sequence, unit[0].feature))
    found = [unit for unit, *_ in units]
    signed = {f: _hits(world, f, magnitude, sequences) for f in {unit.feature for unit in found}}
    common = min(signed, key=lambda f: (-len(signed[f]), f)) if signed else None
    of_units = [value for u in found for value in _hits(world, u.feature, magnitude, _own(u, sequences))]
    return Answer(
        units=found,
        unique=len({unit.feature for unit in found}),
        by_sequence=[sum(world.meets(f, magnitude, [q], block) for f in features) for q in sequences],
        mean_layers=_mean([layer for *_, layer, _ in units]),
        mean_positions=_mean([position for *_, position in units]),
        ties=sum(abs(value) == magnitude for value in of_units),
        most_common=common,
        quartiles=None if common is None else _quartiles(signed[common]),
    )


def _exact(site: Array) -> list[Any]:
    """Nested lists of Fractions, with None for NaN and floats for infinities."""

    def number(value: float) -> Real | None:
        if math.isnan(value):
            return None
        return float(value) if math.isinf(value) else Fraction(value)

    flat = [number(float(value)) for value in site.ravel()]
    return np.array(flat, dtype=object).reshape(site.shape).tolist()  # type: ignore[no-any-return]


class _World:
    """Values of all sites and the two shares that a rule takes."""

    def __init__(self, sites: list[Any], layers: Fraction, positions: Fraction) -> None:
        self.sites, self.layers, self.positions = sites, layers, positions
        self.layer_count, self.position_count = len(sites[0]), len(sites[0][0][0])

    def value(self, site: int, layer: int, sequence: int, position: int, feature: int) -> Real | None:
        found: Real | None = self.sites[site][layer][sequence][position][feature]
        return found

    def all_values(self, feature: int, sequences: list[int]) -> list[Real]:
        return [
            value
            for site in range(len(self.sites))
            for layer in range(self.layer_count)
            for sequence in sequences
            for position in range(self.position_count)
            if (value := self.value(site, layer, sequence, position, feature)) is not None
        ]

    def shares(self, feature: int, magnitude: Real, sequences: list[int], block: bool) -> tuple[Fraction, Fraction]:
        """Share of layers hit and share of positions hit over the given sequences taken together."""

        def hit(site: int, layer: int, sequence: int, position: int) -> bool:
            value = self.value(site, layer, sequence, position, feature)
            return value is not None and abs(value) >= magnitude

        sites, layers, positions = range(len(self.sites)), range(self.layer_count), range(self.position_count)
        cells = {
            (site, layer): any(hit(site, layer, q, p) for q in sequences for p in positions)
            for site in sites
            for layer in layers
        }
        blocks = [any(cells[site, layer] for site in sites) for layer in layers]
        hit_layers = blocks if block else list(cells.values())
        hit_positions = [
            any(hit(site, layer, q, p) for site in sites for layer in layers) for q in sequences for p in positions
        ]
        return (
            Fraction(sum(hit_layers), len(hit_layers)),
            Fraction(sum(hit_positions), len(hit_positions)),
        )

    def meets(self, feature: int, magnitude: Real, sequences: list[int], block: bool) -> bool:
        on_layers, on_positions = self.shares(feature, magnitude, sequences, block)
        return on_layers >= self.layers and on_positions >= self.positions


def _units_of(
    world: _World, preset: str, feature: int, magnitude: Fraction, sequences: list[int]
) -> list[tuple[Unit, float, Fraction, Fraction]]:
    """(unit, critical, layer share, position share) of each unit of this feature that counts."""
    scopes = [sequences] if preset.startswith("llm-int8") else [[q] for q in sequences]
    block = preset == "llm-int8-block"
    met = [scope for scope in scopes if world.meets(feature, magnitude, scope, block)]
    if preset == "majority":
        if 2 * len(met) < len(sequences):
            return []
        shares = [world.shares(feature, magnitude, scope, block) for scope in met]
        mean = tuple(sum((share[i] for share in shares), start=Fraction(0)) / len(shares) for i in (0, 1))

        def often(m: Real) -> bool:
            return 2 * sum(world.meets(feature, m, scope, block) for scope in scopes) >= len(sequences)

        return [_unit(world, None, feature, magnitude, sequences, often, mean[0], mean[1])]
    found = []
    for scope in met:
        on_layers, on_positions = world.shares(feature, magnitude, scope, block)
        sequence = scope[0] if preset == "moe-table" else None

        def meets(m: Real, scope: list[int] = scope) -> bool:
            return world.meets(feature, m, scope, block)

        found.append(_unit(world, sequence, feature, magnitude, scope, meets, on_layers, on_positions))
    return found


def _unit(
    world: _World,
    sequence: int | None,
    feature: int,
    magnitude: Fraction,
    scope: list[int],
    meets: Any,
    on_layers: Fraction,
    on_positions: Fraction,
) -> tuple[Unit, float, Fraction, Fraction]:
    present = sorted({abs(value) for value in world.all_values(feature, scope)})
    critical = next(m for m in reversed(present) if meets(m))
    hits = _hits(world, feature, magnitude, scope)
    sides = {value > 0 for value in hits if value != 0}
    unit = Unit(
        sequence=sequence,
        feature=feature,
        layer_percent=float(100 * on_layers),
        position_percent=float(100 * on_positions),
        peak=float(present[-1]),
        critical=float(critical),
        hits=len(hits),
        one_sided=len(sides) < 2,
    )
    return unit, float(critical), on_layers, on_positions


def _own(unit: Unit, sequences: list[int]) -> list[int]:
    return sequences if unit.sequence is None else [unit.sequence]


def _hits(world: _World, feature: int, magnitude: Fraction, sequences: list[int]) -> list[Real]:
    return [value for value in world.all_values(feature, sequences) if abs(value) >= magnitude]


def _mean(shares: list[Fraction]) -> float | None:
    return float(100 * sum(shares, start=Fraction(0)) / len(shares)) if shares else None


def _quartiles(values: list[Real]) -> tuple[float, float, float]:
    """As numpy.quantile(..., method='linear'), in exact arithmetic where all is finite."""
    ordered = sorted(values)

    def at(quarter: int) -> float:
        index = Fraction((len(ordered) - 1) * quarter, 4)
        low, high = ordered[math.floor(index)], ordered[math.ceil(index)]
        if low == high:
            return float(low)
        if isinstance(low, Fraction) and isinstance(high, Fraction):
            return float(low + (high - low) * (index - math.floor(index)))
        return float(low) + float(high)

    return at(1), at(2), at(3)
