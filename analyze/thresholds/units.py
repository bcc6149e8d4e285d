"""The units that a definition counts, with all that each needs to be counted at any of the thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.thresholds.order import count_blocks

__all__ = ["Coverage", "Staircase", "Units"]

Counts = npt.NDArray[np.int64]
Patterns = npt.NDArray[Any]


@dataclass(frozen=True)
class Staircase:
    """Counts of units at the thresholds that each still meets, and at no others.

    Row u has as many entries as there are thresholds not above the unit's critical one; ``flat`` holds the rows one
    after another and ``starts`` where each begins. A sweep of many magnitudes so costs memory for what it counts.
    """

    flat: Counts
    starts: Counts

    @staticmethod
    def of(table: Counts, lengths: Counts) -> Staircase:
        """The first ``lengths[u]`` entries of each row of a (unit, threshold) table."""
        kept = np.arange(table.shape[1]) < lengths[:, np.newaxis]
        return Staircase(table[kept], _starts(lengths))

    @staticmethod
    def counted(values: Patterns, thresholds: Sequence[int], lengths: Counts) -> Staircase:
        """Of each column of (n, unit) patterns, how many reach each of the first ``lengths[u]`` thresholds."""
        blocks = count_blocks(values, thresholds)
        return Staircase.joined([Staircase.of(table, lengths[block]) for block, table in blocks])

    @staticmethod
    def joined(parts: list[Staircase]) -> Staircase:
        """Rows of several, in order."""
        before = np.cumsum([0, *(part.flat.size for part in parts)])
        starts = [part.starts + shift for part, shift in zip(parts, before, strict=False)]
        empty = np.zeros(0, np.int64)
        return Staircase(
            np.concatenate([part.flat for part in parts]) if parts else empty,
            np.concatenate([empty, *starts]).astype(np.int64),
        )

    def reordered(self, order: Counts) -> Staircase:
        """The same rows in another order; the entries stay where they are."""
        return Staircase(self.flat, self.starts[order])

    def column(self, threshold: int, rows: Counts) -> Counts:
        """Entries of ``rows`` at the threshold of that index, which each of them must reach."""
        return self.flat[self.starts[rows] + threshold].astype(np.int64, copy=False)


def _starts(lengths: Counts) -> Counts:
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: lengths.size]


@dataclass(frozen=True)
class Coverage:
    """Exact coverage of counted units at one threshold: hit layers and positions out of so many, int64 each.

    The totals are a scope's own, and of a majority's feature summed over the sequences in which it meets the rule:
    where sequences have equal totals the ratio of sums is the mean over those sequences.
    """

    layers: Counts
    layers_total: Counts
    positions: Counts
    positions_total: Counts


@dataclass(frozen=True)
class Units:
    """Units counted at the smallest threshold, by critical pattern descending, then sequence, then feature.

    In that order the units counted at any larger threshold are the first so many. ``sequence`` is None where the
    unit is a feature. ``times`` is None where every unit stands for one scope. ``positions_total``: (unit,), or where
    it is not the same at all thresholds a row for each.

    Where hits are counted at each threshold, ``critical`` is empty and ``met`` (unit, threshold) says where each
    counts; the units are then by peak descending, sequence and feature, and their rows have all thresholds.
    """

    sequence: Counts | None
    feature: Counts
    critical: Patterns
    peak: Patterns
    layers: Staircase
    positions: Staircase
    times: Staircase | None
    layers_total: int
    positions_total: Counts | Staircase
    met: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """How many there are at the smallest threshold."""
        return self.feature.size

    def rows(self, threshold: int, pattern: int) -> Counts:
        """Indices of the units that meet the rule at the threshold of that index and pattern, ascending."""
        if self.met is not None:
            return np.flatnonzero(self.met[:, threshold])
        return np.arange(np.count_nonzero(self.critical >= pattern))

    def coverage(self, threshold: int, rows: Counts) -> Coverage:
        """Coverage of the units ``rows``, each of which meets the rule at the threshold of that index."""
        times = np.ones(rows.size, np.int64) if self.times is None else self.times.column(threshold, rows)
        totals = self.positions_total
        return Coverage(
            self.layers.column(threshold, rows),
            times * self.layers_total,
            self.positions.column(threshold, rows),
            totals.column(threshold, rows) if isinstance(totals, Staircase) else totals[rows],
        )

    def sorted(self) -> Units:
        """The same units in the order above."""
        sequence = np.zeros_like(self.feature) if self.sequence is None else self.sequence
        largest = self.critical if self.met is None else self.peak
        order = np.lexsort((self.feature, sequence, -largest.astype(np.int64)))
        totals = self.positions_total
        return Units(
            None if self.sequence is None else self.sequence[order],
            self.feature[order],
            self.critical[order] if self.met is None else self.critical,
            self.peak[order],
            self.layers.reordered(order),
            self.positions.reordered(order),
            None if self.times is None else self.times.reordered(order),
            self.layers_total,
            totals.reordered(order) if isinstance(totals, Staircase) else totals[order],
            None if self.met is None else self.met[order],
        )
