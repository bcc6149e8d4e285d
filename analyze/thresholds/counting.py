"""Rules that no order statistic of peaks decides, answered by hits counted at each threshold.

The mean over affected layers is not monotone: a layer that drops out at a larger magnitude can raise it. So each
threshold is answered by itself, and there is no critical magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.quantities import Share
from analyze.thresholds.plan import Plan
from analyze.thresholds.tally import Tally
from analyze.thresholds.units import Staircase, Units

__all__ = ["CountSource", "Scope", "SequenceCounts", "added", "count_tally", "ruled"]

Counts = npt.NDArray[np.int64]
Patterns = npt.NDArray[Any]


@dataclass(frozen=True)
class SequenceCounts:
    """Hits of one sequence at the plan's thresholds, at its ``positions`` chosen positions.

    ``hits``: (layer unit, feature, threshold) uint32. ``cells``: (feature, threshold), of all cells together.
    ``union``: (feature, threshold), positions that any cell hits; None where they are not asked about. ``largest``:
    (feature,) patterns. ``nonfinite``: how many of the sequence's values are NaN or infinite. ``cell_hits``: as
    ``hits``, of all cells of the layer together, where that is asked for and another number.
    """

    sequence: int
    positions: int
    hits: npt.NDArray[np.uint32]
    cells: Counts
    union: Counts | None
    largest: Patterns
    nonfinite: int
    cell_hits: npt.NDArray[np.uint32] | None = None


CountSource = Callable[[], Iterator[SequenceCounts]]


@dataclass(frozen=True)
class Scope:
    """One scope under the rule, (feature, threshold) each: layers affected, positions out of a total, and met."""

    layers: Counts
    positions: Counts
    totals: Counts
    met: npt.NDArray[np.bool_]


def count_tally(plan: Plan, source: CountSource) -> Tally:
    """The tally of ``plan`` from one pass over counts."""
    pooled = plan.question.definition.scope == "pooled"
    shape = (plan.dimensions.features, len(plan.thresholds))
    largest = np.zeros(shape[0], plan.encoding.unsigned)
    total: SequenceCounts | None = None
    sums = [np.zeros(shape, np.int64) for _ in range(4)]
    parts: list[Units] = []
    alone: list[npt.NDArray[np.bool_]] = []
    peaks: list[Patterns] = []
    nonfinite = 0
    for counts in source():
        scope = ruled(plan, counts)
        alone.append(scope.met)
        peaks.append(counts.largest)
        nonfinite += counts.nonfinite
        np.maximum(largest, counts.largest, out=largest)
        if pooled:
            total = counts if total is None else added(total, counts)
        elif plan.sequences_needed is None:
            parts.append(_units(plan, scope, counts.largest, counts.sequence))
        else:
            for held, more in zip(sums, (scope.layers, scope.positions, scope.totals, scope.met), strict=True):
                held += np.where(scope.met, more, 0).astype(np.int64)
    if total is not None:
        parts.append(_units(plan, ruled(plan, total), largest, None))
    elif plan.sequences_needed is not None:
        layers, positions, totals, times = sums
        often = Scope(layers, positions, totals, times >= plan.sequences_needed)
        parts.append(_units(plan, often, largest, None, times))
    none = np.zeros((len(alone), 0), largest.dtype)
    return Tally(_joined(parts).sorted(), none, nonfinite, np.stack(alone), np.stack(peaks))


def added(total: SequenceCounts, more: SequenceCounts) -> SequenceCounts:
    """Both together, as one scope; the hits of ``total`` are added to in place."""
    cells, more_cells = total.cell_hits, more.cell_hits
    return SequenceCounts(
        sequence=more.sequence,
        positions=total.positions + more.positions,
        hits=np.add(total.hits, more.hits, out=total.hits),  # at most as many as tokens, of which 2**32 are enough
        cells=total.cells + more.cells,
        union=None if total.union is None or more.union is None else total.union + more.union,
        largest=np.maximum(total.largest, more.largest),
        nonfinite=total.nonfinite + more.nonfinite,
        cell_hits=None if cells is None or more_cells is None else np.add(cells, more_cells, out=cells),
    )


def ruled(plan: Plan, counts: SequenceCounts) -> Scope:
    """The rule applied to one scope's counts."""
    definition = plan.question.definition
    shape = counts.cells.shape
    layers, affected_hits = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    needed = definition.minimum_hits.of(counts.positions)
    for hits in counts.hits:
        affected = hits >= needed
        layers += affected
        affected_hits += np.where(affected, hits, 0)
    if definition.position_coverage == "mean":
        positions, totals = affected_hits, layers * counts.positions
    elif definition.position_coverage == "density":
        positions, totals = counts.cells, np.full(shape, plan.cells * counts.positions, np.int64)
    else:
        assert counts.union is not None
        positions, totals = counts.union, np.full(shape, counts.positions, np.int64)
    met = (layers >= plan.layers_needed) & (totals > 0) & (positions >= _needed(plan.question.positions, totals))
    return Scope(layers, positions, totals, met)


def _needed(share: Share, totals: Counts) -> Counts:
    """The smallest counts that are at least the share of ``totals``, in exact arithmetic; there are few totals."""
    different, same = np.unique(totals, return_inverse=True)
    found: Counts = np.array([share.of(total) for total in different.tolist()], np.int64)[same].reshape(totals.shape)
    return found


def _units(plan: Plan, scope: Scope, largest: Patterns, sequence: int | None, times: Counts | None = None) -> Units:
    feature = np.flatnonzero(scope.met.any(axis=1)).astype(np.int64)
    lengths = np.full(feature.size, len(plan.thresholds), np.int64)

    def rows(table: Counts) -> Staircase:
        small = table.max(initial=0) < 2**32  # the units of all sequences are held: what grows with the store
        return Staircase.of(table[feature].astype(np.uint32 if small else np.int64), lengths)

    return Units(
        sequence=None if sequence is None else np.full(feature.size, sequence, np.int64),
        feature=feature,
        critical=np.zeros(0, largest.dtype),
        peak=largest[feature],
        layers=rows(scope.layers),
        positions=rows(scope.positions),
        times=None if times is None else rows(times),
        layers_total=plan.layers_total,
        positions_total=rows(scope.totals),
        met=scope.met[feature],
    )


def _joined(parts: list[Units]) -> Units:
    if len(parts) == 1:
        return parts[0]
    return Units(
        sequence=np.concatenate([part.sequence for part in parts if part.sequence is not None]),
        feature=np.concatenate([part.feature for part in parts]),
        critical=parts[0].critical,
        peak=np.concatenate([part.peak for part in parts]),
        layers=Staircase.joined([part.layers for part in parts]),
        positions=Staircase.joined([part.positions for part in parts]),
        times=None,
        layers_total=parts[0].layers_total,
        positions_total=Staircase.joined(
            [part.positions_total for part in parts if isinstance(part.positions_total, Staircase)]
        ),
        met=np.concatenate([part.met for part in parts if part.met is not None]),
    )
