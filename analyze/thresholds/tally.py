"""One pass over the sequences' peaks, and the units that the definition counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.thresholds.order import LargestValues, count_blocks, kth_largest
from analyze.thresholds.peaks import PeakSource, SequencePeaks, critical_patterns
from analyze.thresholds.plan import Plan
from analyze.thresholds.units import Staircase, Units

__all__ = ["POOLED_BYTES", "Tally", "take_tallies", "take_tally"]

Counts = npt.NDArray[np.int64]
Patterns = npt.NDArray[Any]

POOLED_BYTES = 2**30
"""Memory for the largest position peaks and the counts of pooled sequences; past it features take further passes."""


@dataclass(frozen=True)
class Tally:
    """What the sequences hold: the counted units and what each sequence says alone.

    ``critical``: (sequence, feature) critical patterns of the rule applied to each analysed sequence by itself, 0
    where they are below the smallest threshold; of none where hits are counted at each threshold. ``met`` (sequence,
    feature, threshold) then says where each sequence by itself meets the rule, and ``largest`` has the largest pattern
    of each (sequence, feature).
    """

    units: Units
    critical: Patterns
    nonfinite: int
    met: npt.NDArray[np.bool_] | None = None
    largest: Patterns | None = None

    def by_sequence(self, threshold: int, pattern: int) -> Counts:
        """Features that meet the rule in each analysed sequence at a threshold, and its pattern: (sequence,)."""
        found: Counts = np.count_nonzero(self.met_alone(threshold, pattern), axis=1).astype(np.int64)
        return found

    def met_alone(self, threshold: int, pattern: int) -> npt.NDArray[np.bool_]:
        """Whether each feature meets the rule in each analysed sequence by itself: (sequence, feature)."""
        return np.asarray(self.critical >= pattern) if self.met is None else self.met[:, :, threshold]


def take_tally(plan: Plan, source: PeakSource) -> Tally:
    """The tally of ``plan`` over the peaks of ``source``: one pass, and more only past ``POOLED_BYTES``."""
    return _pooled(plan, source) if plan.question.definition.scope == "pooled" else take_tallies([plan], source)[0]


def _alone(plan: Plan, peaks: SequencePeaks, layers: Patterns) -> Patterns:
    """Critical patterns of one sequence by itself, 0 where they are below the smallest threshold."""
    rows = len(peaks.position)
    if not rows:
        return np.zeros(layers.shape[1], layers.dtype)
    shares = (plan.layers_needed, plan.question.positions.of(rows))
    return critical_patterns(layers, peaks.position, *shares, least=plan.thresholds[0])


def _lengths(plan: Plan, critical: Patterns) -> Counts:
    """How many thresholds each unit meets."""
    thresholds = np.asarray(plan.thresholds, critical.dtype)
    lengths: Counts = np.searchsorted(thresholds, critical, side="right").astype(np.int64)
    return lengths


def take_tallies(plans: Sequence[Plan], source: PeakSource) -> list[Tally]:
    """Tallies of plans that differ in shares alone, the least first, by sequence: one pass, hits counted once."""
    least = plans[0]
    shape = (len(least.sequences), least.dimensions.features)
    criticals = [np.empty(shape, least.encoding.unsigned) for _ in plans]
    overall = np.zeros(least.dimensions.features, least.encoding.unsigned)
    parts: list[Units] = []
    nonfinite = 0
    for row, peaks in enumerate(source()):
        layers = least.layer_units(peaks.layer)
        peak = layers.max(axis=0) if peaks.largest is None else peaks.largest
        np.maximum(overall, peak, out=overall)
        for plan, found in zip(plans, criticals, strict=True):
            found[row] = _alone(plan, peaks, layers)
        nonfinite += peaks.nonfinite
        critical = criticals[0][row]
        feature = np.flatnonzero(critical >= least.thresholds[0])
        lengths = _lengths(least, critical[feature])
        parts.append(
            Units(
                sequence=np.full(feature.size, peaks.sequence, np.int64),
                feature=feature.astype(np.int64),
                critical=critical[feature],
                peak=peak[feature],
                layers=Staircase.counted(layers[:, feature], least.thresholds, lengths),
                positions=Staircase.counted(peaks.position.take(feature, axis=1), least.thresholds, lengths),
                times=None,
                layers_total=least.layers_total,
                positions_total=np.full(feature.size, len(peaks.position), np.int64),
            )
        )
    row_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    pairs = _joined(least, parts)
    return [
        _tally(plan, pairs, critical[row_of, pairs.feature], critical, overall, nonfinite)
        for plan, critical in zip(plans, criticals, strict=True)
    ]


def _tally(plan: Plan, pairs: Units, own: Patterns, critical: Patterns, overall: Patterns, nonfinite: int) -> Tally:
    """That of one plan from pairs at lesser shares, or its own; ``own``: their critical patterns by the plan."""
    rows = np.flatnonzero(own >= plan.thresholds[0])
    units = Units(
        sequence=None if pairs.sequence is None else pairs.sequence[rows],
        feature=pairs.feature[rows],
        critical=own[rows],
        peak=pairs.peak[rows],
        layers=pairs.layers.reordered(rows),
        positions=pairs.positions.reordered(rows),
        times=None,
        layers_total=pairs.layers_total,
        positions_total=np.asarray(pairs.positions_total)[rows],
    )
    if plan.sequences_needed is not None:
        units = _features_met_often(plan, units, kth_largest(critical, plan.sequences_needed), overall)
    return Tally(units.sorted(), critical, nonfinite)


def _joined(plan: Plan, parts: list[Units]) -> Units:
    return Units(
        sequence=np.concatenate([part.sequence for part in parts if part.sequence is not None]),
        feature=np.concatenate([part.feature for part in parts]),
        critical=np.concatenate([part.critical for part in parts]),
        peak=np.concatenate([part.peak for part in parts]),
        layers=Staircase.joined([part.layers for part in parts]),
        positions=Staircase.joined([part.positions for part in parts]),
        times=None,
        layers_total=plan.layers_total,
        positions_total=np.concatenate([np.asarray(part.positions_total) for part in parts]),
    )


def _features_met_often(plan: Plan, pairs: Units, critical: Patterns, peak: Patterns) -> Units:
    """Features that meet the rule in enough sequences, their coverage summed over the sequences where they do.

    ``critical`` (feature,) is the k-th largest over sequences, ``peak`` (feature,) the largest of all.
    """
    feature = np.flatnonzero(critical >= plan.thresholds[0]).astype(np.int64)
    lengths = _lengths(plan, critical[feature])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    start_of, length_of = (np.zeros(plan.dimensions.features, np.int64) for _ in range(2))
    start_of[feature], length_of[feature] = starts[:-1], lengths
    layers, positions, times, totals = (np.zeros(starts[-1], np.int64) for _ in range(4))
    met = np.minimum(_lengths(plan, pairs.critical), length_of[pairs.feature])
    for threshold in range(len(plan.thresholds)):
        here = np.flatnonzero(met > threshold)
        into = start_of[pairs.feature[here]] + threshold
        np.add.at(layers, into, pairs.layers.flat[pairs.layers.starts[here] + threshold])
        np.add.at(positions, into, pairs.positions.flat[pairs.positions.starts[here] + threshold])
        np.add.at(times, into, 1)
        np.add.at(totals, into, np.asarray(pairs.positions_total)[here])
    return Units(
        sequence=None,
        feature=feature,
        critical=critical[feature],
        peak=peak[feature],
        layers=Staircase(layers, starts[:-1]),
        positions=Staircase(positions, starts[:-1]),
        times=Staircase(times, starts[:-1]),
        layers_total=plan.layers_total,
        positions_total=Staircase(totals, starts[:-1]),
    )


def _pooled(plan: Plan, source: PeakSource) -> Tally:
    features, unsigned = plan.dimensions.features, plan.encoding.unsigned
    alone = np.empty((len(plan.sequences), features), unsigned)
    layers = np.zeros((plan.layers_total, features), unsigned)
    nonfinite = 0
    largest: list[Patterns] = []
    positions: list[Staircase] = []
    for part, block in enumerate(_feature_blocks(plan)):
        held = LargestValues(plan.positions_needed, block.stop - block.start, unsigned)
        reached = np.zeros((block.stop - block.start, len(plan.thresholds)), np.int64)
        for row, peaks in enumerate(source()):
            values = peaks.position[:, block]
            held.add(values)
            for some, counts in count_blocks(values, plan.thresholds):
                reached[some] += counts
            if part == 0:
                units = plan.layer_units(peaks.layer)
                np.maximum(layers, units, out=layers)
                alone[row] = _alone(plan, peaks, units)
                nonfinite += peaks.nonfinite
        met = np.minimum(kth_largest(layers[:, block], plan.layers_needed), held.kth())
        largest.append(met)
        counted = met >= plan.thresholds[0]
        positions.append(Staircase.of(reached[counted], _lengths(plan, met[counted])))
    critical = np.concatenate(largest)
    feature = np.flatnonzero(critical >= plan.thresholds[0])
    lengths = _lengths(plan, critical[feature])
    units_met = Units(
        sequence=None,
        feature=feature.astype(np.int64),
        critical=critical[feature],
        peak=layers.max(axis=0)[feature],
        layers=Staircase.counted(layers[:, feature], plan.thresholds, lengths),
        positions=Staircase.joined(positions),
        times=None,
        layers_total=plan.layers_total,
        positions_total=np.full(feature.size, plan.positions_total, np.int64),
    )
    return Tally(units_met.sorted(), alone, nonfinite)


def _feature_blocks(plan: Plan) -> list[slice]:
    """Features in parts, a pass each, whose largest values and counts take ``POOLED_BYTES`` at most."""
    each = plan.positions_needed * plan.encoding.itemsize + len(plan.thresholds) * 8
    width = max(1, POOLED_BYTES // each)
    features = plan.dimensions.features
    return [slice(start, min(start + width, features)) for start in range(0, features, width)]
