"""A run as levels: how many of the question's thresholds each layer of a feature reaches. Enough for the null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.thresholds.counting import CountSource, SequenceCounts, added
from analyze.thresholds.order import count_blocks
from analyze.thresholds.peaks import PeakSource
from analyze.thresholds.plan import Plan
from schemas.errors import InputError

__all__ = ["MAX_COUNTS", "MAX_LEVELS", "LayerHits", "Levels", "counted_levels", "require_levels", "take_levels"]

Counts = npt.NDArray[np.int64]

MAX_LEVELS = 256
"""Most distinct thresholds of one question: positions are counted per sequence, feature and threshold."""
MAX_COUNTS = 2**25
"""Most counts by scope, layer, feature and threshold: with what a permutation makes of them, half a GiB."""


@dataclass(frozen=True)
class LayerHits:
    """What gives each feature's position share from its layers, so that it can be permuted with them.

    ``hits``: (scope, layer unit, feature, threshold) uint32, what a layer adds to the share's numerator. ``needed``:
    (scope, layers + 1) int64, the least sum of a feature with so many affected layers.
    """

    hits: npt.NDArray[np.uint32]
    needed: Counts


@dataclass(frozen=True)
class Levels:
    """``layers``: (sequence, layer unit, feature) uint16, the number of thresholds at which each layer is affected.

    ``positions``: (sequence, feature, threshold) int64, positions of the sequence that reach each; all 0 where
    ``coverage`` says what the position share is.
    """

    layers: npt.NDArray[np.uint16]
    positions: Counts
    nonfinite: int
    coverage: LayerHits | None = None

    def pooled(self) -> Levels:
        """All sequences as one scope: the largest level of each layer, all positions together."""
        return Levels(self.layers.max(axis=0)[np.newaxis], self.positions.sum(axis=0)[np.newaxis], self.nonfinite)

    def layer_hits(self, threshold: int) -> Counts:
        """(scope, feature): how many layers are affected at the threshold of that index."""
        hits: Counts = np.count_nonzero(self.layers > threshold, axis=1).astype(np.int64)
        return hits


def require_levels(plan: Plan, flag: str) -> None:
    """Raise InputError for a question with more thresholds than levels are counted for."""
    if len(plan.thresholds) > MAX_LEVELS:
        raise InputError(
            f"{flag} at {len(plan.thresholds):,} distinct magnitudes; the limit is {MAX_LEVELS}: take a larger step"
        )


def take_levels(plan: Plan, source: PeakSource) -> Levels:
    """The levels of every analysed sequence, from one pass over its peaks.

    48 layers, 2 sites, 16 sequences and 2,048 features are 6 MiB of layers; positions take 0.26 MiB a threshold.
    """
    sequences, features = len(plan.sequences), plan.dimensions.features
    layers = np.empty((sequences, plan.layers_total, features), np.uint16)
    positions = np.zeros((sequences, features, len(plan.thresholds)), np.int64)
    thresholds: npt.NDArray[Any] = np.asarray(plan.thresholds, plan.encoding.unsigned)
    nonfinite = 0
    for row, peaks in enumerate(source()):
        layers[row] = np.searchsorted(thresholds, plan.layer_units(peaks.layer), side="right")
        for block, counts in count_blocks(peaks.position, plan.thresholds):
            positions[row, block] = counts
        nonfinite += peaks.nonfinite
    return Levels(layers, positions, nonfinite)


def counted_levels(plan: Plan, source: CountSource) -> Levels:
    """The levels of every scope where hits are counted at each threshold: a sequence, or all of them pooled.

    A layer's hits fall as the magnitude grows, so that those at which it is affected are the first so many. Raises
    InputError for more counts than are held.
    """
    pooled = plan.question.definition.scope == "pooled"
    scopes, features = 1 if pooled else len(plan.sequences), plan.dimensions.features
    each = scopes * plan.layers_total * features
    union = plan.question.definition.position_coverage == "union"
    if not union and each * len(plan.thresholds) > MAX_COUNTS:
        raise InputError(
            f"--null with {plan.needs_slices[0]} at {len(plan.thresholds)} magnitudes permutes "
            f"{each * len(plan.thresholds):,} counts; the limit is {MAX_COUNTS:,}: ask for "
            f"{max(1, MAX_COUNTS // each)} at a time"
        )
    parts: list[Levels] = []
    total: SequenceCounts | None = None
    nonfinite = 0
    for counts in source():
        nonfinite += counts.nonfinite
        if pooled:
            total = counts if total is None else added(total, counts)
        else:
            parts.append(_levels_of(plan, counts))
    if total is not None:
        parts.append(_levels_of(plan, total))
    held = [part.coverage for part in parts if part.coverage is not None]
    coverage = None
    if held:
        coverage = LayerHits(np.concatenate([one.hits for one in held]), np.concatenate([one.needed for one in held]))
    layers, positions = (np.concatenate([getattr(part, name) for part in parts]) for name in ("layers", "positions"))
    return Levels(layers, positions, nonfinite, coverage)


def _levels_of(plan: Plan, counts: SequenceCounts) -> Levels:
    """One scope's, as the only one."""
    definition, share = plan.question.definition, plan.question.positions
    minimum = definition.minimum_hits.of(counts.positions)
    layers = np.stack([(hits >= minimum).sum(axis=1) for hits in counts.hits]).astype(np.uint16)[np.newaxis]
    if definition.position_coverage == "union":
        assert counts.union is not None
        return Levels(layers, counts.union[np.newaxis], 0)
    affected = range(plan.layers_total + 1)
    if definition.position_coverage == "mean":
        hits = np.where(counts.hits >= minimum, counts.hits, np.uint32(0))
        needed = [share.of(number * counts.positions) for number in affected]
    else:
        hits = counts.hits if counts.cell_hits is None else counts.cell_hits
        needed = [share.of(plan.cells * counts.positions) for _ in affected]
    nothing = np.zeros((1, *counts.cells.shape), np.int64)
    return Levels(layers, nothing, 0, LayerHits(hits[np.newaxis], np.array([needed], np.int64)))
