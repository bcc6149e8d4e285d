"""What only the slices know about the counted units: their hits, the hits' signs, ties and quartiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.progress import Progress
from analyze.resources import Resources
from analyze.statistics.work import Excluded
from analyze.thresholds.order import counts_at_least
from analyze.thresholds.plan import Plan
from analyze.thresholds.quartiles import Quartiles, signed_order_values, virtual_ranks
from analyze.thresholds.slices import summed_over_slices
from analyze.thresholds.units import Units
from schemas.run import Run

__all__ = ["Detail", "Details", "measure_details"]

Counts = npt.NDArray[np.int64]
Patterns = npt.NDArray[Any]


@dataclass(frozen=True)
class Detail:
    """Details of the units counted at one threshold.

    ``hits`` and ``one_sided`` have an entry per unit. ``ties`` counts the hits equal to the threshold's own value.
    ``most_common`` is the counted feature with most hits over all analysed data, the lowest index among equals, and
    ``quartiles`` (q1, median, q3) are those of its signed hits; None where nothing is counted.
    """

    hits: Counts
    one_sided: npt.NDArray[np.bool_]
    ties: int
    most_common: int | None
    most_common_hits: int | None
    quartiles: Quartiles | None


@dataclass(frozen=True)
class Details:
    """Hit counts of all units at all thresholds, (unit, threshold) each, and the most common features."""

    hits: Counts
    ties: Counts
    two_sided: npt.NDArray[np.bool_]
    most_common: tuple[tuple[int, int] | None, ...]
    quartiles: tuple[Quartiles | None, ...]

    def at(self, threshold: int, rows: Counts) -> Detail:
        """Details of the units ``rows``, which are those counted at the threshold of that index."""
        common = self.most_common[threshold]
        return Detail(
            hits=self.hits[rows, threshold],
            one_sided=~self.two_sided[rows, threshold],
            ties=int(self.ties[rows, threshold].sum()),
            most_common=None if common is None else common[0],
            most_common_hits=None if common is None else common[1],
            quartiles=self.quartiles[threshold],
        )


def measure_details(
    run: Run, plan: Plan, units: Units, progress: Progress, resources: Resources, excluded: list[Excluded]
) -> Details:
    """Details of ``units``: one pass over the slices for the counts, then one for quartiles (float32: two).

    Hits of a (sequence, feature) unit are those of its sequence; of a feature unit, of all analysed sequences. All
    of the chosen cells and positions are looked at, whether or not they meet the shares. Cells that are skipped because
    they cannot be read are added to ``excluded``.
    """
    levels = len(plan.thresholds)
    hits, ties = (np.zeros((len(units), levels), np.int64) for _ in range(2))
    two_sided = np.zeros((len(units), levels), np.bool_)
    if not len(units):
        return Details(hits, ties, two_sided, (None,) * levels, (None,) * levels)
    features = np.unique(units.feature)
    edges = _edges(plan)
    shape = (2, features.size, len(edges))
    total = np.zeros(shape, np.int64)

    def fill(rows: Counts, signs: Counts) -> None:
        found = signs[:, np.searchsorted(features, units.feature[rows])]
        at, above, nonzero = (np.searchsorted(edges, _edges_of(plan, shift)) for shift in ("at", "above", "nonzero"))
        both = found.sum(axis=0)
        hits[rows] = both[:, at]
        ties[rows] = both[:, at] - both[:, above]
        two_sided[rows] = (found[0][:, nonzero] > 0) & (found[1][:, nonzero] > 0)

    kernel = _signed_counts(plan, features, edges)
    for sequence, signs in summed_over_slices(run, plan, kernel, total.size, progress, "hits", resources, excluded):
        total += signs.reshape(shape)
        if units.sequence is not None:
            fill(np.flatnonzero(units.sequence == sequence), signs.reshape(shape))
    if units.sequence is None:
        fill(np.arange(len(units)), total)
    common = _most_common(plan, units, features, total, edges)
    return Details(
        hits,
        ties,
        two_sided,
        common,
        _quartiles(run, plan, features, total, edges, common, progress, resources, excluded),
    )


def _edges_of(plan: Plan, which: str) -> Counts:
    thresholds = np.asarray(plan.thresholds, np.int64)
    return {"at": thresholds, "above": thresholds + 1, "nonzero": np.maximum(thresholds, 1)}[which]


def _edges(plan: Plan) -> Counts:
    """Patterns at which hits are counted: each threshold and the next, whose difference is the ties, ascending.

    The one after infinity counts NaN, which ``_signed_counts`` takes away.
    """
    ends = [_edges_of(plan, which) for which in ("at", "above", "nonzero")]
    return np.unique(np.concatenate([*ends, [plan.encoding.infinity + 1]]))


def _signed_counts(plan: Plan, features: Counts, edges: Counts) -> Callable[[Patterns], Counts]:
    """Kernel: how many values of each feature reach each edge, those with the sign bit set apart; flat.

    At edge 0 the two are right only in sum, since a positive value stands as 0 among the negative ones; signs are
    asked of the edge above it.
    """
    sign, thresholds = plan.encoding.sign_mask, edges.tolist()

    def kernel(chunk: Patterns) -> Counts:
        patterns = chunk.take(features, axis=1)
        magnitudes = patterns & patterns.dtype.type(sign - 1)
        negative = patterns >= patterns.dtype.type(sign)
        both = counts_at_least(magnitudes, thresholds)
        below = counts_at_least(np.where(negative, magnitudes, patterns.dtype.type(0)), thresholds)
        split = np.stack([both - below, below])
        split -= split[:, :, -1:]
        return split.ravel()

    return kernel


def _most_common(
    plan: Plan, units: Units, features: Counts, total: Counts, edges: Counts
) -> tuple[tuple[int, int] | None, ...]:
    """(feature, hits) at each threshold: the counted feature with most hits in all data, ties to the lowest."""
    at = np.searchsorted(edges, _edges_of(plan, "at"))
    found: list[tuple[int, int] | None] = []
    for threshold, pattern in enumerate(plan.thresholds):
        counted = np.unique(units.feature[units.rows(threshold, pattern)])
        if not counted.size:
            found.append(None)
            continue
        hits = total.sum(axis=0)[np.searchsorted(features, counted), at[threshold]]
        most = int(hits.argmax())
        found.append((int(counted[most]), int(hits[most])))
    return tuple(found)


def _quartiles(
    run: Run,
    plan: Plan,
    features: Counts,
    total: Counts,
    edges: Counts,
    common: tuple[tuple[int, int] | None, ...],
    progress: Progress,
    resources: Resources,
    excluded: list[Excluded],
) -> tuple[Quartiles | None, ...]:
    """Quartiles of the signed hits of the most common feature at each threshold.

    Signed hits at a threshold are the lowest and the highest so many of those at the smallest threshold, so each
    quartile is between two ranks of the latter, which ``signed_order_values`` finds for all thresholds at once.
    """
    at = np.searchsorted(edges, _edges_of(plan, "at"))
    ranks: list[tuple[int, tuple[tuple[int, int, Fraction], ...]] | None] = []
    wanted: dict[int, set[int]] = {}
    for threshold, feature_and_hits in enumerate(common):
        if feature_and_hits is None:
            ranks.append(None)
            continue
        feature, hits = feature_and_hits
        row = int(np.searchsorted(features, feature))
        negative = int(total[1, row, at[threshold]])
        missing = int(total[:, row, at[0]].sum()) - hits
        found = tuple(
            (low + (missing if low >= negative else 0), high + (missing if high >= negative else 0), weight)
            for low, high, weight in virtual_ranks(hits)
        )
        ranks.append((feature, found))
        wanted.setdefault(feature, set()).update(rank for low, high, _ in found for rank in (low, high))
    values = signed_order_values(run, plan, wanted, progress, resources, excluded)
    return tuple(
        None
        if known is None
        else Quartiles.between(*((values[known[0], low], values[known[0], high], w) for low, high, w in known[1]))
        for known in ranks
    )
