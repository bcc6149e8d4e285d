"""The permutation null: how many features would meet the shares if no two tensors agreed on which feature is which.

The labels of the features are permuted in each layer unit (a cell; a block where the definition counts blocks), the
same way in all sequences. Every tensor keeps its own distribution of peaks; what goes is that the same feature is large
in many of them, which is what a definition by a share of layers is about. Where hits are counted by layer, as for a
mean or a density, they move with the labels, and the position share is one of permuted hits too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analyze.chance.levels import Levels

__all__ = ["CRITERIA", "NullCounts", "Rule", "expected_counts", "observed_counts", "permuted_counts"]

Counts = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CRITERIA = ("layers", "layers and positions")


@dataclass(frozen=True)
class Rule:
    """What a feature needs in each scope, and in how many scopes it counts once; None where each scope counts.

    ``positions_needed``: one number, or one for each scope.
    """

    layers_needed: int
    positions_needed: int | tuple[int, ...]
    scopes_needed: int | None


@dataclass(frozen=True)
class NullCounts:
    """(..., criterion, threshold) int64: what the definition counts, and the distinct features among it."""

    outliers: Counts
    unique: Counts


def observed_counts(levels: Levels, rule: Rule) -> NullCounts:
    """The counts of the data itself: (criterion, threshold)."""
    thresholds = levels.positions.shape[2]
    affected = np.stack([levels.layer_hits(t) for t in range(thresholds)], axis=1)
    if levels.coverage is None:
        return _counted(affected >= rule.layers_needed, _on_positions(levels, rule), rule)
    sums = levels.coverage.hits.sum(axis=1, dtype=np.int64).transpose(0, 2, 1)
    needed = np.stack([row[number] for row, number in zip(levels.coverage.needed, affected, strict=True)])
    return _counted(affected >= rule.layers_needed, sums >= needed, rule)


def expected_counts(levels: Levels, rule: Rule) -> npt.NDArray[np.float64] | None:
    """The exact expectation of ``outliers`` over all permutations: (criterion, threshold) float64.

    A label is hit in layer c with probability n_c / F, independently of the other layers, so that the number of
    layers that hit it is Poisson-binomial. None where a feature counts once over several scopes: its hits in them are
    not independent. NaN for both shares where the position share is one of permuted hits, which are not independent of
    how many layers are affected.
    """
    if rule.scopes_needed is not None:
        return None
    scopes, layers, features = levels.layers.shape
    thresholds = levels.positions.shape[2]
    expected = np.zeros((2, thresholds))
    on_positions = _on_positions(levels, rule).sum(axis=2)
    for threshold in range(thresholds):
        hit = np.count_nonzero(levels.layers > threshold, axis=2) / features
        number = np.zeros((scopes, layers + 1))
        number[:, 0] = 1
        for layer in range(layers):
            share = hit[:, layer, np.newaxis]
            number[:, 1:] = number[:, 1:] * (1 - share) + number[:, :-1] * share
            number[:, 0] *= 1 - share[:, 0]
        meets = number[:, rule.layers_needed :].sum(axis=1)
        both = np.nan if levels.coverage is not None else (meets * on_positions[:, threshold]).sum()
        expected[:, threshold] = features * meets.sum(), both
    return expected


def permuted_counts(levels: Levels, rule: Rule, permutations: int, seed: int) -> NullCounts:
    """The counts under ``permutations`` random relabellings: (permutation, criterion, threshold).

    The position coverage of each feature moves as a whole, as one more tensor, where peaks do not know which of it
    belongs to which layer. Work grows with what reaches the smallest threshold, not with all there is.
    """
    _, layers, features = levels.layers.shape
    thresholds = levels.positions.shape[2]
    on_positions = _on_positions(levels, rule)
    entries = [(level > 0).nonzero() for level in levels.layers]
    offsets = [
        (level[found].astype(np.int64) - 1) * features for level, found in zip(levels.layers, entries, strict=True)
    ]
    moved = None if levels.coverage is None else [_MovedHits.of(hits) for hits in levels.coverage.hits]
    outliers, unique = (np.empty((permutations, 2, thresholds), np.int64) for _ in range(2))
    for draw, labels in enumerate(_relabellings(layers, features, permutations, seed)):
        on_layers = np.empty((len(entries), thresholds, features), np.bool_)
        for scope, (found, offset) in enumerate(zip(entries, offsets, strict=True)):
            exactly = np.bincount(offset + labels[found], minlength=thresholds * features)
            reached = exactly.reshape(thresholds, features)[::-1].cumsum(axis=0)[::-1]
            on_layers[scope] = reached >= rule.layers_needed
            if moved is not None and levels.coverage is not None:
                sums = moved[scope].sums(labels, thresholds)
                on_positions[scope] = sums >= levels.coverage.needed[scope][reached]
        counts = _counted(on_layers, on_positions, rule)
        outliers[draw], unique[draw] = counts.outliers, counts.unique
    return NullCounts(outliers, unique)


@dataclass(frozen=True)
class _MovedHits:
    """The hits of one scope that are not 0: where each is in (layer, feature), its threshold's place, and how many."""

    cell: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int32]
    hits: npt.NDArray[np.uint32]

    @staticmethod
    def of(hits: npt.NDArray[np.uint32]) -> _MovedHits:
        """Those of (layer unit, feature, threshold)."""
        layer, feature, threshold = hits.nonzero()
        features = hits.shape[1]
        cell, offset = (layer * features + feature), threshold * features
        return _MovedHits(cell.astype(np.int32), offset.astype(np.int32), hits[layer, feature, threshold])

    def sums(self, labels: Counts, thresholds: int) -> Counts:
        """(threshold, feature): what the layers add up to under (layer, feature) ``labels``; floats hold it exactly."""
        features = labels.shape[1]
        place = labels.ravel()[self.cell] + self.offset
        sums = np.bincount(place, weights=self.hits, minlength=thresholds * features)
        return sums.astype(np.int64).reshape(thresholds, features)


def _relabellings(layers: int, features: int, permutations: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    names = np.tile(np.arange(features), (layers, 1))
    for _ in range(permutations):
        yield generator.permuted(names, axis=1)


def _on_positions(levels: Levels, rule: Rule) -> Bools:
    """(scope, threshold, feature): whether the feature's position coverage suffices."""
    needed = np.reshape(rule.positions_needed, (-1, 1, 1))
    return np.asarray(levels.positions >= needed).transpose(0, 2, 1)


def _counted(on_layers: Bools, on_positions: Bools, rule: Rule) -> NullCounts:
    """From (scope, threshold, feature): both criteria's counts."""
    outliers, unique = [], []
    for met in (on_layers, on_layers & on_positions):
        if rule.scopes_needed is None:
            outliers.append(met.sum(axis=(0, 2)))
            unique.append(met.any(axis=0).sum(axis=1))
        else:
            outliers.append((met.sum(axis=0) >= rule.scopes_needed).sum(axis=1))
            unique.append(outliers[-1])
    return NullCounts(np.stack(outliers), np.stack(unique))
