"""Counts of units column by column, a column for each threshold: what a page holds so that it can answer exactly.

The position shares that a page can ask for are few, so that of each unit's positions it holds how many of those shares
they meet. Exact positions are held of the units that it can list, and sums of them for the means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analyze.overviews.ladders import LISTED, Climb, Ladders, first_by_ladder, first_by_often, positions_needed
from analyze.overviews.results import ShareStep
from analyze.thresholds.plan import Plan
from analyze.thresholds.units import Units

__all__ = ["Exact", "columns", "held_lengths"]

Counts = npt.NDArray[np.int64]
Exact = Literal["listed", "all", "none"]


@dataclass(frozen=True)
class _Column:
    """Of one threshold the units held, by their places in the page's order, with their counts."""

    units: Counts
    layers: Counts
    steps: Counts
    rest: Counts


def held_lengths(units: Units, plan: Plan) -> Counts:
    """At how many thresholds each unit is held: those that it meets, or all up to the last that it meets."""
    if units.met is None:
        found: Counts = np.searchsorted(plan.thresholds, units.critical.astype(np.int64), side="right").astype(np.int64)
        return found
    places = np.arange(1, len(plan.thresholds) + 1)
    return np.asarray((units.met * places).max(axis=1, initial=0), np.int64)


def columns(
    units: Units, plan: Plan, shares: Sequence[ShareStep], exact: Exact, looked: Counts, climb: Climb | None = None
) -> list[npt.NDArray[np.int64]]:
    """Twelve lists of numbers as ``Coverage`` says.

    ``climb`` gives ladders, and units are then listed by critical magnitude at all shares; None: by peak. ``looked``:
    features of which ladders are held whether they are listed or not.
    """
    sequence = np.zeros_like(units.feature) if units.sequence is None else units.sequence
    order = np.lexsort((sequence, units.feature))
    feature, row = units.feature[order], np.searchsorted(plan.sequences, sequence[order])
    row = row if units.sequence is not None else np.zeros_like(row)
    lengths, peak = held_lengths(units, plan)[order], units.peak[order].astype(np.int64)
    made = list(_columns(units, plan, shares, order, lengths))
    chosen, climbing = np.arange(order.size if exact == "all" else 0), np.zeros(0, np.int64)
    ladders: list[Counts] = [np.zeros(0, np.int64)] * 2
    if climb is not None and made:
        least, closely = plan.thresholds[0], np.isin(feature, looked)
        if plan.sequences_needed is None:
            climbing = np.flatnonzero(_may_be_first(made, order.size) | closely)
            found = climb(row[climbing], feature[climbing])
            kept = first_by_ladder(found, least)
        else:
            climbing = np.flatnonzero((np.bincount(feature) >= plan.sequences_needed)[feature] | closely)
            found = climb(row[climbing], feature[climbing])
            kept = first_by_often(found, feature[climbing], row[climbing], plan.sequences_needed, least)
        kept = np.union1d(kept, np.flatnonzero(closely[climbing]))
        climbing = climbing[kept]
        ladders = _descents(found, kept, least)
        chosen = chosen if exact == "all" else climbing
    elif exact == "listed":
        wanted = np.zeros(order.size, np.bool_)
        by_peak = np.empty_like(order)
        by_peak[np.lexsort((feature, row, -peak))] = np.arange(order.size)
        for column in made:
            wanted[_first_at_some_shares(column, by_peak)] = True
        chosen = np.flatnonzero(wanted)
    return [
        row.astype(np.int64),
        np.diff(feature, prepend=0),
        lengths,
        *_differences(made, order.size),
        np.diff(chosen, prepend=0),
        peak[chosen if plan.sequences_needed is None else chosen[:0]],  # a majority's are its features'
        _rests(made, chosen, lengths),
        np.concatenate([_sums(column) for column in made]) if made and exact == "listed" else np.zeros(0, np.int64),
        np.diff(np.searchsorted(chosen, climbing), prepend=0),
        *ladders,
    ]


def _columns(
    units: Units, plan: Plan, shares: Sequence[ShareStep], order: Counts, lengths: Counts
) -> Iterator[_Column]:
    """Each as long as its units are; those alike at the threshold before stand together, which packs them well."""
    alive, layers, steps = np.arange(order.size), *np.zeros((2, order.size), np.int64)
    for threshold in range(len(plan.thresholds)):
        here = lengths[alive] > threshold
        alive = alive[here]
        if not alive.size:
            return
        alive = alive[np.lexsort((layers[here], steps[here]))]
        found = units.coverage(threshold, order[alive])
        layers = found.layers
        steps, rest = _steps(found.positions, found.positions_total, shares)
        yield _Column(alive, layers, steps, rest)


def _steps(positions: Counts, totals: Counts, shares: Sequence[ShareStep]) -> tuple[Counts, Counts]:
    """How many of the shares each count meets, and how much it is above what the last of those needs."""
    steps, rest = np.zeros_like(positions), positions.copy()
    for total in np.unique(totals[totals > 0]).tolist():
        needed = np.array([0, *positions_needed(shares, total)], np.int64)
        same = totals == total
        steps[same] = np.searchsorted(needed[1:], positions[same], side="right")
        rest[same] -= needed[steps[same]]
    return steps, rest


def _differences(made: Sequence[_Column], size: int) -> list[Counts]:
    """Layers and steps: of the first column as they are, of others how much less than before; steps may be more."""
    layers, steps = np.zeros((2, size), np.int64)
    lists: tuple[list[Counts], list[Counts]] = ([], [])
    for place, column in enumerate(made):
        if place:
            fewer = steps[column.units] - column.steps
            lists[0].append(layers[column.units] - column.layers)
            lists[1].append(np.where(fewer < 0, -2 * fewer - 1, 2 * fewer))
        else:
            lists[0].append(column.layers)
            lists[1].append(column.steps)
        layers[column.units], steps[column.units] = column.layers, column.steps
    return [np.concatenate([np.zeros(0, np.int64), *some]) for some in lists]


def _may_be_first(made: Sequence[_Column], size: int) -> npt.NDArray[np.bool_]:
    """Whether each unit may be among the first ``LISTED`` by critical magnitude at some shares.

    One that meets some shares at a threshold comes after all that meet them at the next; these are fewest at the very
    layers and steps that it meets.
    """
    wanted = np.zeros(size, np.bool_)
    for place, column in enumerate(made):
        if place + 1 == len(made):
            wanted[column.units] = True
            continue
        after = made[place + 1]
        shape = [1 + max(int(c.max(initial=0)) for c in pair) for pair in _both(column, after)]
        reaching = np.zeros(shape, np.int64)
        np.add.at(reaching, (after.layers, after.steps), 1)
        reaching = reaching[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
        wanted[column.units[reaching[column.layers, column.steps] < LISTED]] = True
    return wanted


def _both(one: _Column, other: _Column) -> tuple[tuple[Counts, Counts], tuple[Counts, Counts]]:
    return (one.layers, other.layers), (one.steps, other.steps)


def _descents(found: Ladders, kept: Counts, least: int) -> list[Counts]:
    """Ladders of the kept units, as far as they are not below ``least``: the first rung, and the steps down from it."""
    lists = []
    for rungs in (found.layers[kept].astype(np.int64), found.positions[kept].astype(np.int64)):
        down = np.concatenate([rungs[:, :1], rungs[:, :-1] - rungs[:, 1:]], axis=1)
        lists.append(down[rungs >= least])
    return lists


def _first_at_some_shares(column: _Column, by_peak: Counts) -> Counts:
    """Units that may be among the first ``LISTED`` by peak of those that meet some shares, and a few more.

    A unit has fewest before it at the very layers and steps that it meets. Of those before it blocks are counted, not
    its own.
    """
    order = np.argsort(by_peak[column.units])
    layers, steps = column.layers[order], column.steps[order]
    before = np.zeros((int(layers.max()) + 1, int(steps.max()) + 1), np.int64)
    found: list[npt.NDArray[Any]] = []
    start = 0
    while start < order.size:
        block = slice(start, start + max(LISTED, start // 4))
        above = before[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
        found.append(order[block][above[layers[block], steps[block]] < LISTED])
        np.add.at(before, (layers[block], steps[block]), 1)
        start = block.stop
    units: Counts = column.units[np.concatenate(found)]
    return units


def _rests(made: Sequence[_Column], chosen: Counts, lengths: Counts) -> Counts:
    """What the positions of the chosen units are above their steps: each unit's at all its thresholds."""
    starts = np.full(lengths.size, -1, np.int64)
    starts[chosen] = np.cumsum(lengths[chosen]) - lengths[chosen]
    rests = np.zeros(int(lengths[chosen].sum()), np.int64)
    for threshold, column in enumerate(made):
        here = starts[column.units] >= 0
        rests[starts[column.units[here]] + threshold] = column.rest[here]
    return rests


def _sums(column: _Column) -> Counts:
    """What the positions of all units with the same layers and steps are above their steps, by layers and steps."""
    _, cell = np.unique(column.layers * (int(column.steps.max()) + 1) + column.steps, return_inverse=True)
    sums = np.zeros(int(cell.max()) + 1, np.int64)
    np.add.at(sums, cell, column.rest)
    return sums
