"""Ladders: the largest magnitude at which a unit reaches each number of layers, and each share of positions.

At any shares a unit's critical magnitude is the lesser of two rungs (docs/definitions.md), so that ladders order units
as the command does wherever the sliders are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.overviews.results import ShareStep
from analyze.quantities import Share
from analyze.thresholds.order import kth_largest
from analyze.thresholds.peaks import PeakSource
from analyze.thresholds.plan import Plan

__all__ = ["LISTED", "Climb", "Ladders", "climb", "first_by_ladder", "first_by_often", "needed_of", "positions_needed"]

Counts = npt.NDArray[np.int64]
Patterns = npt.NDArray[Any]

LISTED = 200
"""How many units a page lists."""

_MOST_BYTES = 2**29
"""Of position peaks held at once where sequences are pooled."""


@dataclass(frozen=True)
class Ladders:
    """Patterns of some units: ``layers`` (unit, layers from the least asked for), ``positions`` (unit, share)."""

    layers: Patterns
    positions: Patterns


Climb = Callable[[Counts, Counts], Ladders]
"""Gives the ladders of units by rows of their sequences (0 where sequences are pooled) and features."""


def positions_needed(shares: Sequence[ShareStep], total: int) -> list[int]:
    """How many of so many positions each share takes."""
    return [-(-share.numerator * total // share.denominator) for share in shares]


def needed_of(share: Share, totals: Counts) -> Counts:
    """How many of each of the totals the share takes; int64, of exact arithmetic on the few different totals.

    >>> from analyze.quantities import parse_share
    >>> needed_of(parse_share("0.0700000000000000001", "--positions"), np.array([100, 0, 20])).tolist()
    [8, 0, 2]
    """
    different, place = np.unique(totals, return_inverse=True)
    return np.array([share.of(total) for total in different.tolist()], np.int64)[place]


def climb(
    plan: Plan, layer_shares: Sequence[ShareStep], position_shares: Sequence[ShareStep], source: PeakSource
) -> Climb:
    """Ladders of units from peaks, of which the call takes another pass."""
    least = positions_needed(layer_shares, plan.layers_total)[0]

    def rungs(layers: Patterns, positions: Patterns) -> tuple[Patterns, Patterns]:
        """(layer unit, unit) and (position, unit) peaks as rungs, (rung, unit)."""
        total = len(positions)
        places = total - np.array(positions_needed(position_shares, total))
        return np.sort(layers, axis=0)[::-1][least - 1 :], np.sort(positions, axis=0)[places]

    def of_pairs(row: Counts, feature: Counts) -> Ladders:
        layers = np.zeros((plan.layers_total - least + 1, row.size), plan.encoding.unsigned)
        positions = np.zeros((len(position_shares), row.size), plan.encoding.unsigned)
        for i, peaks in enumerate(source()):
            here = np.flatnonzero(row == i)
            if here.size:
                own = feature[here]
                found = rungs(plan.layer_units(peaks.layer[:, :, own]), peaks.position[:, own])
                layers[:, here], positions[:, here] = found
        return Ladders(layers.T, positions.T)

    def of_some(feature: Counts) -> tuple[Patterns, Patterns]:
        layers = np.zeros((plan.layers_total, feature.size), plan.encoding.unsigned)
        positions = []
        for peaks in source():
            np.maximum(layers, plan.layer_units(peaks.layer[:, :, feature]), out=layers)
            positions.append(peaks.position[:, feature])
        found = rungs(layers, np.concatenate(positions))
        return found[0].T, found[1].T

    def of_features(_: Counts, feature: Counts) -> Ladders:
        width = max(1, _MOST_BYTES // (plan.positions_total * plan.encoding.itemsize))
        parts = [of_some(feature[start : start + width]) for start in range(0, feature.size, width)]
        return Ladders(*(np.concatenate(some) for some in zip(*parts, strict=True)))

    return of_features if plan.question.definition.scope == "pooled" else of_pairs


def first_by_ladder(found: Ladders, least: int) -> Counts:
    """Units among the first ``LISTED`` by critical magnitude at some shares, ties with the last of them included."""
    size = len(found.layers)
    if size <= LISTED:
        return np.arange(size)
    wanted = np.zeros(size, np.bool_)
    positions = found.positions.astype(np.uint32)
    for rung in np.unique(found.layers.astype(np.uint32).T, axis=0):
        critical = np.minimum(rung[:, np.newaxis], positions)
        last = np.partition(critical, size - LISTED, axis=0)[size - LISTED]
        wanted |= (critical >= np.maximum(last, least)).any(axis=1)
    return np.flatnonzero(wanted)


def first_by_often(found: Ladders, feature: Counts, row: Counts, times: int, least: int) -> Counts:
    """Pairs of the features among the first ``LISTED`` at some shares, where ``times`` sequences are to meet the rule.

    A feature's critical magnitude is then the ``times``-th largest of its pairs', which no two rungs of its own say.
    Where no more than ``LISTED`` features reach ``least`` they are all among the first, which is so at most shares.
    """
    own, place = np.unique(feature, return_inverse=True)
    if own.size <= LISTED:
        return np.arange(feature.size)
    sequences = max(int(row.max()) + 1, times)

    def by_sequence(rungs: Patterns) -> Patterns:
        """(sequence, feature, rung), 0 where there is no pair."""
        table = np.zeros((sequences, own.size, rungs.shape[1]), rungs.dtype)
        table[row, place] = rungs
        return table

    layers, positions = by_sequence(found.layers), by_sequence(found.positions)
    shape = positions.shape[1:]
    highest = kth_largest(positions.reshape(sequences, -1), times).reshape(shape)  # at any number of layers
    wanted = np.zeros(own.size, np.bool_)
    for rung in range(layers.shape[2]):
        on_layers = layers[:, :, rung]
        reaching = np.flatnonzero(kth_largest(on_layers, times) >= least)
        for share in range(shape[1]):
            here = reaching[highest[reaching, share] >= least]
            if here.size <= LISTED:  # at larger shares there are fewer
                wanted[here] = True
                break
            critical = kth_largest(np.minimum(on_layers[:, here], positions[:, here, share]), times)
            last = np.partition(critical, critical.size - LISTED)[critical.size - LISTED]
            wanted[here[critical >= max(int(last), least)]] = True
    return np.flatnonzero(wanted[place])
