"""Where single features live: their peaks by site and layer, their largest positions and tokens, their experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.between.emergence import median_of
from analyze.evaluation.exceedance_tables import bin_names, position_bins
from analyze.evaluation.exceedances import EXPERTS_SITE, require_routing
from analyze.overviews.results import Absent, ExpertShare, FeatureView, TokenCount, TokenPeak
from analyze.progress import Progress
from analyze.quantities import decimal_text
from analyze.resources import Resources
from analyze.statistics.expert_hits import ExpertHits
from analyze.statistics.measure import measure
from analyze.statistics.selection import Selection
from analyze.thresholds.answers import peak_source
from analyze.thresholds.definitions import ONE_HIT
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.question import Question
from analyze.thresholds.units import Units
from schemas.bits import Encoding, magnitude_value
from schemas.errors import CorruptChunkError, InputError
from schemas.run import Run
from schemas.token_text import token_texts

__all__ = ["Listed", "feature_views", "listed_features"]

Counts = npt.NDArray[np.int64]
Patterns = npt.NDArray[Any]

_LARGEST = 12
_TOKENS = 12
_EXPERTS = 12


@dataclass(frozen=True)
class Listed:
    """A feature to look at: the largest critical pattern of its units (None: there is none), and its peak's."""

    feature: int
    counted: bool
    critical: int | None
    peak: int


def listed_features(counted: Units, others: Units, least: int, limit: int) -> list[Listed]:
    """The first ``limit`` features counted at the pattern ``least``, in the command's order; then those of ``others``.

    ``others`` are units at lesser shares, so that there is something to look at where the rule counts little.
    """
    found: dict[int, Listed] = {}
    for units, by_rule in ((counted, True), (others, False)):
        rows = units.rows(0, least)
        for row in rows.tolist():
            if len(found) >= limit:
                break
            feature = int(units.feature[row])
            critical = int(units.critical[row]) if by_rule and units.met is None else None
            found.setdefault(feature, Listed(feature, by_rule, critical, int(units.peak[row])))
    return list(found.values())


def feature_views(
    run: Run, question: Question, listed: Sequence[Listed], progress: Progress, resources: Resources
) -> tuple[FeatureView, ...]:
    """A view of each feature, at all magnitudes of the question."""
    if not listed:
        return ()
    definition = replace(question.definition, position_coverage="union", minimum_hits=ONE_HIT)
    plan = make_plan(run, replace(question, definition=definition))
    columns = np.array([one.feature for one in listed])
    layer = np.zeros((len(plan.sites), len(plan.chosen.layers), columns.size), plan.encoding.unsigned)
    by_sequence, values, places = [], [], []
    for peaks in peak_source(run, plan, progress, resources)():
        own = peaks.layer[:, :, columns]
        np.maximum(layer, own, out=layer)
        by_sequence.append(own.max(axis=(0, 1)))
        positions = plan.chosen.positions(run, peaks.sequence)
        values.append(peaks.position[:, columns])
        places.append(np.stack([np.full(positions.size, peaks.sequence), positions], axis=1))
    value, place = np.concatenate(values), np.concatenate(places)
    tokens = _Tokens.of(run, plan, place)
    experts = _experts(run, plan, columns, progress, resources)
    bins = position_bins(run.dimensions.positions)
    bin_of = np.searchsorted([b.stop for b in bins], place[:, 1], side="right")
    views = []
    for i, one in enumerate(listed):
        steps = np.searchsorted(plan.thresholds, value[:, i], side="right")  # how many thresholds each value reaches
        views.append(
            FeatureView(
                feature=one.feature,
                counted=one.counted,
                critical_magnitude=None if one.critical is None else decoded(one.critical, plan.encoding),
                peak=decoded(int(layer[:, :, i].max()), plan.encoding),
                layer_peak=tuple(tuple(decoded(int(p), plan.encoding) for p in row) for row in layer[:, :, i]),
                sequence_peak=tuple(decoded(int(row[i]), plan.encoding) for row in by_sequence),
                positions=_largest(value[:, i], place, tokens, plan.encoding),
                position_bins=bin_names(bins),
                position_tokens=tuple(np.bincount(bin_of, minlength=len(bins)).tolist()),
                position_hits=tuple(map(tuple, _hits(bin_of, steps, len(bins), plan).T.tolist())),
                median_magnitude=_medians(value[:, i], plan),
                tokens=tokens.most_hit(steps, plan),
                experts=experts if isinstance(experts, Absent) else experts[i],
            )
        )
    return tuple(views)


def _hits(kinds: Counts, steps: Counts, count: int, plan: Plan) -> Counts:
    """How many values of each kind reach each magnitude: (kind, magnitude); ``steps``: thresholds that each reaches."""
    width = len(plan.thresholds) + 1
    table = np.bincount(kinds * width + steps, minlength=count * width).reshape(count, width)
    found: Counts = table[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:][:, list(plan.threshold_of)]
    return found


def _medians(values: Patterns, plan: Plan) -> tuple[float | None, ...]:
    """At each magnitude the median of the values that reach it."""
    ascending = np.sort(values)
    starts = np.searchsorted(ascending, np.asarray(plan.thresholds, values.dtype))
    found = [median_of(ascending[start:], plan.encoding) if start < ascending.size else None for start in starts]
    return tuple(found[t] for t in plan.threshold_of)


def _most(hits: Counts, before: Counts, limit: int) -> list[int]:
    """Rows that are among the first ``limit`` of any column by hits, then by the place in ``before``; in that order."""
    found: set[int] = set()
    for column in hits.T:
        rows = np.flatnonzero(column)
        found.update(rows[np.lexsort((before[rows], -column[rows]))[:limit]].tolist())
    return sorted(found, key=lambda row: int(before[row]))


def _until_none(hits: Counts) -> tuple[int, ...]:
    """Hits by magnitude, ascending, up to the last with any."""
    found: tuple[int, ...] = tuple(hits[: int(np.flatnonzero(hits)[-1]) + 1].tolist())
    return found


def decoded(pattern: int, encoding: Encoding) -> float:
    """The magnitude of a sign-cleared pattern; infinity of infinity's."""
    return float("inf") if pattern == encoding.infinity else float(magnitude_value(pattern, encoding))


@dataclass(frozen=True)
class _Tokens:
    """The token id at each looked-at place, none where the store has none, and the text of each id."""

    ids: npt.NDArray[np.int64] | None
    texts: Mapping[int, str]

    @staticmethod
    def of(run: Run, plan: Plan, place: npt.NDArray[Any]) -> _Tokens:
        """Those at ``place``, rows of (sequence, position) by sequence."""
        if "token_id" not in run:
            return _Tokens(None, {})
        own = [run.read("token_id", (q,))[place[place[:, 0] == q, 1]] for q in plan.sequences]
        return _Tokens(np.concatenate(own).astype(np.int64), token_texts(run))

    def at(self, row: int) -> tuple[int | None, str | None]:
        """Id and text of the token at the place of that row."""
        if self.ids is None:
            return None, None
        token = int(self.ids[row])
        return token, self.texts.get(token)

    def most_hit(self, steps: Counts, plan: Plan) -> tuple[TokenCount, ...]:
        """The tokens with most hits at any magnitude; the rarer of equals first, then by id."""
        if self.ids is None:
            return ()
        different, same = np.unique(self.ids, return_inverse=True)
        hits = _hits(same, steps, different.size, plan)
        occurrences = np.bincount(same, minlength=different.size)
        before = np.argsort(np.lexsort((different, occurrences)))
        return tuple(
            TokenCount(int(different[i]), self.texts.get(int(different[i])), _until_none(hits[i]), int(occurrences[i]))
            for i in _most(hits, before, _TOKENS)
        )


def _largest(values: Patterns, place: npt.NDArray[Any], tokens: _Tokens, encoding: Encoding) -> tuple[TokenPeak, ...]:
    order = np.lexsort((place[:, 1], place[:, 0], -values.astype(np.int64)))[:_LARGEST]
    return tuple(
        TokenPeak(int(q), int(p), decoded(int(values[i]), encoding), *tokens.at(i))
        for i, (q, p) in ((i, place[i]) for i in order.tolist())
    )


def _experts(
    run: Run, plan: Plan, columns: npt.NDArray[Any], progress: Progress, resources: Resources
) -> list[tuple[ExpertShare, ...]] | Absent:
    """Of each feature the experts with most hits; why there are none where the store cannot say."""
    from analyze.overviews.sliced import absence, kept_magnitudes, part_of, require_floor, require_slices

    if not run.info.model.experts and "expert_id" not in run:
        return Absent("The model has no experts: each token goes through the same MLP.", "None here")
    magnitudes = plan.question.magnitudes
    try:
        require_slices(run, plan)
        require_routing(run)
        require_floor(run, magnitudes)
        if EXPERTS_SITE not in plan.sites:
            raise InputError(f"experts are those of {EXPERTS_SITE}, which is not among the sites looked at")
        count = run.array("expert_peak").shape[-1] if "expert_peak" in run else int(run.info.model.experts or 0)
        kept = kept_magnitudes(run, magnitudes)
        statistic = ExpertHits(tuple(map(decimal_text, kept)), count, tuple(columns.tolist()))
        part: Selection = replace(part_of(plan), sites=(EXPERTS_SITE,))
        found = measure(run, [statistic], part, progress=progress, **resources.options())[statistic.name]
    except CorruptChunkError:
        raise
    except InputError as error:
        return absence(error)
    tokens, layers = found.tokens.values[0], found.layer.values
    below = (None,) * magnitudes.index(kept[0])
    views = []
    for i in range(columns.size):
        hits = found.hits.values[0, :, :, i].astype(np.int64)  # (layer, expert, magnitude)
        flat = hits.reshape(-1, len(kept))
        pairs = [(row, np.unravel_index(row, hits.shape[:2])) for row in _most(flat, np.arange(len(flat)), _EXPERTS)]
        views.append(
            tuple(
                ExpertShare(int(layers[j]), int(e), (*below, *_until_none(flat[row])), int(tokens[j, e]))
                for row, (j, e) in pairs
            )
        )
    return views
