"""The peaks of a run as levels: how many of the question's thresholds each reaches. Small, and enough for the null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.thresholds.order import count_blocks
from analyze.thresholds.peaks import PeakSource
from analyze.thresholds.plan import Plan
from schemas.errors import InputError

__all__ = ["MAX_LEVELS", "Levels", "require_levels", "take_levels"]

Counts = npt.NDArray[np.int64]

MAX_LEVELS = 256
"""Most distinct thresholds of one question: positions are counted per sequence, feature and threshold."""


@dataclass(frozen=True)
class Levels:
    """``layers``: (sequence, layer unit, feature) uint16, how many thresholds each layer peak reaches.

    ``positions``: (sequence, feature, threshold) int64, positions of the sequence that reach each.
    """

    layers: npt.NDArray[np.uint16]
    positions: Counts
    nonfinite: int

    def pooled(self) -> Levels:
        """All sequences as one scope: the largest level of each layer, all positions together."""
        return Levels(self.layers.max(axis=0)[np.newaxis], self.positions.sum(axis=0)[np.newaxis], self.nonfinite)

    def layer_hits(self, threshold: int) -> Counts:
        """(scope, feature): how many layers reach the threshold of that index."""
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
    if plan.uneven:
        raise InputError(
            f"--tokens {plan.question.tokens} leaves sequences with different numbers of positions, and this view "
            "takes them to be alike: leave out --tokens"
        )
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
