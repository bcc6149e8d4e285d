"""The definition with every knob, once more as loops over exact values; no peaks, patterns or k-th largest.

Values are nested lists ``x[site][layer][sequence][position][feature]`` of Fractions, infinities as floats and None for
NaN, and may have been divided by a gain. Written from docs/definitions.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

__all__ = ["Asked", "Told", "told"]


@dataclass(frozen=True)
class Asked:
    """What is asked; ``chosen`` are the positions of each sequence, ``minimum`` a count or a share of them."""

    magnitude: Fraction
    layers: Fraction
    positions: Fraction
    unit: str
    scope: str
    share: Fraction | None
    coverage: str
    minimum: int | Fraction
    layers_chosen: tuple[int, ...]
    chosen: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Told:
    """``units``: (sequence or None, feature, L%, S%), in any order; ``by_sequence``: what counts in each alone."""

    units: list[tuple[int | None, int, float, float]]
    by_sequence: list[int]


def told(x: list[Any], asked: Asked) -> Told:
    """What a result must say."""
    features, sequences = len(x[0][0][0][0]), range(len(asked.chosen))
    found: list[tuple[int | None, int, float, float]] = []
    alone = [[_scope(x, asked, f, [q]) for f in range(features)] for q in sequences]
    for f in range(features):
        if asked.scope == "pooled":
            met = _scope(x, asked, f, list(sequences))
            found += [] if met is None else [(None, f, *_percents([met]))]
        elif asked.share is None:
            found += [(q, f, *_percents([met])) for q in sequences if (met := alone[q][f]) is not None]
        else:
            often = [met for q in sequences if (met := alone[q][f]) is not None]
            if len(often) >= asked.share * len(sequences):
                found.append((None, f, *_percents(often)))
    return Told(found, [sum(met is not None for met in row) for row in alone])


def _percents(scopes: list[tuple[int, int, int, int]]) -> tuple[float, float]:
    layers, of, positions, total = (sum(column) for column in zip(*scopes, strict=True))
    return float(100 * Fraction(layers, of)), float(100 * Fraction(positions, total))


def _scope(x: list[Any], asked: Asked, f: int, sequences: list[int]) -> tuple[int, int, int, int] | None:
    """(layers affected, of so many, positions hit, of so many) where the rule is met; else None."""
    sites = range(len(x))
    tokens = [(q, p) for q in sequences for p in asked.chosen[q]]
    if not tokens:
        return None

    def hit(site: int, layer: int, token: tuple[int, int]) -> bool:
        value = x[site][layer][token[0]][token[1]][f]
        return value is not None and abs(value) >= asked.magnitude

    if asked.unit == "cell":
        layers = [[(s, layer)] for s in sites for layer in asked.layers_chosen]
    else:
        layers = [[(s, layer) for s in sites] for layer in asked.layers_chosen]
    minimum = asked.minimum if isinstance(asked.minimum, int) else asked.minimum * len(tokens)
    hits = [sum(any(hit(*cell, token) for cell in cells) for token in tokens) for cells in layers]
    affected = [n for n in hits if n >= minimum and n > 0]
    cells = [cell for layer in layers for cell in layer]
    if not affected or Fraction(len(affected), len(layers)) < asked.layers:
        return None
    if asked.coverage == "union":
        positions, total = sum(any(hit(*cell, token) for cell in cells) for token in tokens), len(tokens)
    elif asked.coverage == "mean":
        positions, total = sum(affected), len(affected) * len(tokens)
    else:
        positions, total = sum(hit(*cell, token) for cell in cells for token in tokens), len(cells) * len(tokens)
    if Fraction(positions, total) < asked.positions:
        return None
    return len(affected), len(layers), positions, total
