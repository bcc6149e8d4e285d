"""Counts at every magnitude at once, from one pass over the peaks: what a sweep of any length is read from.

A unit counts at ``m`` if its critical magnitude ``m*`` reaches it. The layers that the counted units hit at ``m`` are
then the pairs (unit, layer) with ``min(layer_peak, m*) >= m``, and positions likewise, so three histograms over the
65,536 patterns of a 16-bit encoding answer counts and means at any number of magnitudes, exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.thresholds.peaks import PeakSource, SequencePeaks, critical_patterns
from analyze.thresholds.plan import Plan
from analyze.thresholds.tally import take_tally

__all__ = ["Survival", "can_survive", "take_survival"]

Counts = npt.NDArray[np.int64]
Patterns = npt.NDArray[Any]

_BLOCK = 256
"""Positions counted at a time: their patterns are widened to 64 bits on the way."""
_AT_ONCE = 2
"""Sequences counted beside each other: to count one takes twice as long as to read it."""


@dataclass(frozen=True)
class Survival:
    """How much of a store's data survives each threshold.

    ``critical``: critical patterns of the definition's units, (sequence, feature) or (feature,). ``alone``: those of
    each sequence by itself, (sequence, feature), sorted along features. ``layers`` and ``positions``: for each
    pattern p, how many (counted unit, layer) and (counted unit, position) pairs reach it: (patterns,) int64.
    """

    plan: Plan
    critical: Patterns
    alone: Patterns
    layers: Counts
    positions: Counts
    nonfinite: int

    def outliers(self, patterns: Sequence[int]) -> Counts:
        """Units counted at each pattern: (patterns,)."""
        return _at_least(np.sort(self.critical, axis=None), patterns)

    def unique_features(self, patterns: Sequence[int]) -> Counts:
        """Distinct features among them: (patterns,)."""
        largest = self.critical if self.critical.ndim == 1 else self.critical.max(axis=0)
        return _at_least(np.sort(largest), patterns)

    def by_sequence(self, patterns: Sequence[int]) -> Counts:
        """Features that meet the rule in each sequence alone: (sequence, patterns)."""
        return np.stack([_at_least(row, patterns) for row in self.alone])

    def mean_percents(self, patterns: Sequence[int]) -> list[tuple[float, float] | tuple[None, None]]:
        """Mean L% and S% of what is counted at each pattern, each rounded once; None of both where nothing is."""
        found: list[tuple[float, float] | tuple[None, None]] = []
        for pattern, units in zip(patterns, self.outliers(patterns).tolist(), strict=True):
            layers, positions = int(self.layers[pattern]), int(self.positions[pattern])
            found.append(
                (
                    float(Fraction(100 * layers, units * self.plan.layers_total)),
                    float(Fraction(100 * positions, units * self.plan.positions_total)),
                )
                if units
                else (None, None)
            )
        return found


def can_survive(plan: Plan) -> bool:
    """True where ``take_survival`` answers: 16-bit encodings, and a definition whose units stand for one scope each."""
    return plan.encoding.itemsize == 2 and plan.sequences_needed is None


def take_survival(plan: Plan, source: PeakSource) -> Survival:
    """The survival of everything that the peaks of ``source`` hold, whatever ``plan``'s thresholds are.

    One pass where positions are counted within a sequence, two where they are pooled.
    """
    if plan.question.definition.scope == "pooled":
        return _pooled(plan, source)
    layers, positions = (np.zeros(plan.encoding.infinity + 1, np.int64) for _ in range(2))
    critical = np.empty((len(plan.sequences), plan.dimensions.features), plan.encoding.unsigned)
    nonfinite = 0
    for row, (own, in_layers, at_positions, more) in enumerate(_counted(plan, source)):
        critical[row] = own
        layers += in_layers
        positions += at_positions
        nonfinite += more
    return Survival(plan, critical, np.sort(critical, axis=1), _reached(layers), _reached(positions), nonfinite)


def _counted(plan: Plan, source: PeakSource) -> Iterator[tuple[Patterns, Counts, Counts, int]]:
    """(critical patterns, counts of layers, of positions, nonfinite) of each sequence, ``_AT_ONCE`` at a time."""

    def count(peaks: SequencePeaks) -> tuple[Patterns, Counts, Counts, int]:
        units = plan.layer_units(peaks.layer)
        critical = critical_patterns(units, peaks.position, plan.layers_needed, plan.sequence_positions_needed, least=0)
        layers, positions = (np.zeros(plan.encoding.infinity + 1, np.int64) for _ in range(2))
        _add(layers, units, critical)
        _add(positions, peaks.position, critical)
        return critical, layers, positions, peaks.nonfinite

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="survival") as pool:
        waiting: deque[Future[tuple[Patterns, Counts, Counts, int]]] = deque()
        for peaks in source():
            waiting.append(pool.submit(count, peaks))
            if len(waiting) == _AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pooled(plan: Plan, source: PeakSource) -> Survival:
    tally = take_tally(replace(plan, thresholds=(0,), threshold_of=(0,)), source)
    critical = np.zeros(plan.dimensions.features, plan.encoding.unsigned)
    critical[tally.units.feature] = tally.units.critical
    positions = np.zeros(plan.encoding.infinity + 1, np.int64)
    largest = np.zeros((plan.layers_total, plan.dimensions.features), plan.encoding.unsigned)
    for peaks in source():
        np.maximum(largest, plan.layer_units(peaks.layer), out=largest)
        _add(positions, peaks.position, critical)
    layers = np.zeros_like(positions)
    _add(layers, largest, critical)
    alone = np.sort(tally.critical, axis=1)
    return Survival(plan, critical, alone, _reached(layers), _reached(positions), tally.nonfinite)


def _add(counts: Counts, peaks: Patterns, critical: Patterns) -> None:
    """Count (n, feature) ``peaks``, none above its feature's critical pattern, by pattern."""
    for start in range(0, len(peaks), _BLOCK):
        clipped = np.minimum(peaks[start : start + _BLOCK], critical)
        counts += np.bincount(clipped.ravel(), minlength=counts.size)


def _reached(counts: Counts) -> Counts:
    """(patterns,) counts of each pattern as counts of those that reach it."""
    survivors: Counts = counts[::-1].cumsum()[::-1]
    return survivors


def _at_least(ascending: Patterns, patterns: Sequence[int]) -> Counts:
    wanted = np.asarray(patterns, ascending.dtype)
    found: Counts = ascending.size - np.searchsorted(ascending, wanted, side="left").astype(np.int64)
    return found
