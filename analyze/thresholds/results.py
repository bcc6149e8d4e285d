"""The answer for one store at one magnitude, with everything that it rests on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from analyze.thresholds.bootstrap import mean_intervals
from analyze.thresholds.plan import Plan
from analyze.thresholds.survival import Survival
from analyze.thresholds.tally import Tally
from schemas.bits import Encoding, magnitude_value
from schemas.perplexity import Perplexity
from schemas.provenance import RunInfo

if TYPE_CHECKING:
    from analyze.thresholds.details import Detail, Details

__all__ = ["Feature", "Result", "assemble", "assemble_survival"]

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Feature:
    """One counted unit. ``sequence`` is None where the unit is a feature; the last two are None without details.

    ``critical_magnitude`` is None where the rule is answered by counts at each magnitude.
    """

    sequence: int | None
    feature: int
    layer_percent: float
    position_percent: float
    peak: float
    critical_magnitude: float | None
    hits: int | None
    one_sided: bool | None


@dataclass(frozen=True)
class Result:
    """Outliers of one store at one magnitude under one definition.

    ``by_sequence`` has, for each analysed sequence, the features that meet the rule in it alone; ``interval`` is
    the bootstrap 95% interval of their mean. Means over counted units are None where nothing is counted.
    ``perplexity`` is that of the analysed tokens. ``excluded``: cells that could not be read and were skipped.
    ``listing`` has the units, and is None where they were not to be listed.
    """

    store: str
    info: RunInfo
    plan: Plan
    magnitude: Fraction
    outliers: int
    unique_features: int
    by_sequence: tuple[int, ...]
    interval: tuple[float, float] | None
    mean_layer_percent: float | None
    mean_position_percent: float | None
    nonfinite: int
    perplexity: Perplexity
    excluded: tuple[str, ...]
    detail: Detail | None
    listing: Tally | None
    threshold: int

    @property
    def tally(self) -> Tally:
        """The counted units; raises ValueError where the answer was asked for without them."""
        if self.listing is None:
            raise ValueError("the units are not known: answer(..., features=True) lists them")
        return self.listing

    @property
    def outliers_per_sequence(self) -> float:
        """Mean over the analysed sequences of the features that meet the rule in one alone."""
        return sum(self.by_sequence) / len(self.by_sequence)

    @property
    def ties(self) -> int | None:
        """Hits of counted units equal to the magnitude itself, or None without details."""
        if self.detail is None:
            return None
        return self.detail.ties if self.plan.is_exact(self.magnitude) else 0

    def features(self, limit: int | None = None) -> Iterator[Feature]:
        """The counted units, the largest critical magnitude (or else peak) first, then by sequence and feature.

        Raises ValueError as ``tally`` does.
        """
        if limit == 0:
            return
        units, encoding = self.tally.units, self.plan.encoding
        rows = units.rows(self.threshold, self.plan.thresholds[self.threshold])[:limit]
        coverage = units.coverage(self.threshold, rows)
        for i, unit in enumerate(rows.tolist()):
            yield Feature(
                sequence=None if units.sequence is None else int(units.sequence[unit]),
                feature=int(units.feature[unit]),
                layer_percent=100 * int(coverage.layers[i]) / int(coverage.layers_total[i]),
                position_percent=100 * int(coverage.positions[i]) / int(coverage.positions_total[i]),
                peak=_decoded(int(units.peak[unit]), encoding),
                critical_magnitude=None if units.met is not None else _decoded(int(units.critical[unit]), encoding),
                hits=None if self.detail is None else int(self.detail.hits[i]),
                one_sided=None if self.detail is None else bool(self.detail.one_sided[i]),
            )

    def _repr_html_(self) -> str:
        from analyze.formats.html import render_result

        return render_result(self)


def assemble(
    store: str,
    info: RunInfo,
    plan: Plan,
    tally: Tally,
    details: Details | None,
    perplexity: Perplexity,
    excluded: tuple[str, ...] = (),
) -> list[Result]:
    """A result for each magnitude of the plan's question, in its order."""
    by_threshold = [tally.by_sequence(*at) for at in enumerate(plan.thresholds)]
    # Many thresholds count the same features.
    different, same = np.unique(np.stack(by_threshold, axis=1), axis=1, return_inverse=True)
    intervals = mean_intervals(different)
    results = []
    for magnitude, threshold in zip(plan.question.magnitudes, plan.threshold_of, strict=True):
        rows = tally.units.rows(threshold, plan.thresholds[threshold])
        coverage = tally.units.coverage(threshold, rows)
        results.append(
            Result(
                store=store,
                info=info,
                plan=plan,
                magnitude=magnitude,
                outliers=rows.size,
                unique_features=int(np.unique(tally.units.feature[rows]).size),
                by_sequence=tuple(by_threshold[threshold].tolist()),
                interval=intervals[int(same.ravel()[threshold])],
                mean_layer_percent=_mean_percent(coverage.layers, coverage.layers_total),
                mean_position_percent=_mean_percent(coverage.positions, coverage.positions_total),
                nonfinite=tally.nonfinite,
                perplexity=perplexity,
                excluded=excluded,
                detail=None if details is None else details.at(threshold, rows),
                listing=tally,
                threshold=threshold,
            )
        )
    return results


def assemble_survival(store: str, info: RunInfo, plan: Plan, found: Survival, perplexity: Perplexity) -> list[Result]:
    """The same from a survival of the plan's store; the results do not list their units."""
    by_sequence = found.by_sequence(plan.thresholds)
    different, same = np.unique(by_sequence, axis=1, return_inverse=True)
    intervals = mean_intervals(different)
    outliers, unique = found.outliers(plan.thresholds), found.unique_features(plan.thresholds)
    percents = found.mean_percents(plan.thresholds)
    return [
        Result(
            store=store,
            info=info,
            plan=plan,
            magnitude=magnitude,
            outliers=int(outliers[threshold]),
            unique_features=int(unique[threshold]),
            by_sequence=tuple(by_sequence[:, threshold].tolist()),
            interval=intervals[int(same.ravel()[threshold])],
            mean_layer_percent=percents[threshold][0],
            mean_position_percent=percents[threshold][1],
            nonfinite=found.nonfinite,
            perplexity=perplexity,
            excluded=(),
            detail=None,
            listing=None,
            threshold=threshold,
        )
        for magnitude, threshold in zip(plan.question.magnitudes, plan.threshold_of, strict=True)
    ]


def _mean_percent(counts: Counts, totals: Counts) -> float | None:
    """100 times the mean of counts / totals, added up exactly and rounded once; None of nothing."""
    if not counts.size:
        return None
    total = sum(
        (Fraction(int(counts[totals == size].sum()), int(size)) for size in np.unique(totals)), start=Fraction(0)
    )
    return float(100 * total / counts.size)


def _decoded(pattern: int, encoding: Encoding) -> float:
    return float("inf") if pattern == encoding.infinity else float(magnitude_value(pattern, encoding))
