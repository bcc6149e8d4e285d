"""Where single features live: their peaks by site and layer, their largest positions and tokens, their experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.evaluation.exceedance_tables import bin_names, position_bins
from analyze.evaluation.exceedances import EXPERTS_SITE, require_routing
from analyze.overviews.results import Absent, ExpertShare, FeatureView, TokenCount, TokenPeak
from analyze.progress import Progress
from analyze.resources import Resources
from analyze.statistics.expert_hits import ExpertHits
from analyze.statistics.measure import measure
from analyze.statistics.selection import Selection
from analyze.thresholds.answers import peak_source
from analyze.thresholds.definitions import ONE_HIT
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.question import Question
from analyze.thresholds.units import Units
from schemas.bits import Encoding, magnitude_value, threshold_bits
from schemas.errors import CorruptChunkError, InputError
from schemas.run import Run
from schemas.token_text import token_texts

__all__ = ["Listed", "feature_views", "listed_features"]

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
    run: Run,
    question: Question,
    chosen: int,
    listed: Sequence[Listed],
    progress: Progress,
    resources: Resources,
) -> tuple[FeatureView, ...]:
    """A view of each feature; ``chosen`` is the place of the magnitude at which positions, tokens and experts are."""
    if not listed:
        return ()
    definition = replace(question.definition, position_coverage="union", minimum_hits=ONE_HIT)
    plan = make_plan(run, replace(question, definition=definition))
    columns = np.array([one.feature for one in listed])
    pattern = threshold_bits(question.magnitudes[chosen], plan.encoding)
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
    experts = _experts(run, plan, chosen, columns, progress, resources)
    bins = position_bins(run.dimensions.positions)
    return tuple(
        FeatureView(
            feature=one.feature,
            counted=one.counted,
            critical_magnitude=None if one.critical is None else decoded(one.critical, plan.encoding),
            peak=decoded(int(layer[:, :, i].max()), plan.encoding),
            layer_peak=tuple(tuple(decoded(int(p), plan.encoding) for p in row) for row in layer[:, :, i]),
            sequence_peak=tuple(decoded(int(row[i]), plan.encoding) for row in by_sequence),
            positions=_largest(value[:, i], place, tokens, plan.encoding),
            position_bins=bin_names(bins),
            position_hits=tuple(
                (int(np.count_nonzero(value[here, i] >= pattern)), int(np.count_nonzero(here)))
                for here in ((place[:, 1] >= b.start) & (place[:, 1] < b.stop) for b in bins)
            ),
            tokens=tokens.most_hit(value[:, i] >= pattern),
            experts=experts if isinstance(experts, Absent) else experts[i],
        )
        for i, one in enumerate(listed)
    )


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

    def most_hit(self, hit: npt.NDArray[np.bool_]) -> tuple[TokenCount, ...]:
        """The tokens with most hits, the more frequent of equals last, then by id."""
        if self.ids is None:
            return ()
        different, same = np.unique(self.ids, return_inverse=True)
        hits = np.bincount(same[hit], minlength=different.size)
        occurrences = np.bincount(same, minlength=different.size)
        order = np.lexsort((different, occurrences, -hits))[:_TOKENS]
        return tuple(
            TokenCount(int(different[i]), self.texts.get(int(different[i])), int(hits[i]), int(occurrences[i]))
            for i in order
            if hits[i]
        )


def _largest(values: Patterns, place: npt.NDArray[Any], tokens: _Tokens, encoding: Encoding) -> tuple[TokenPeak, ...]:
    order = np.lexsort((place[:, 1], place[:, 0], -values.astype(np.int64)))[:_LARGEST]
    return tuple(
        TokenPeak(int(q), int(p), decoded(int(values[i]), encoding), *tokens.at(i))
        for i, (q, p) in ((i, place[i]) for i in order.tolist())
    )


def _experts(
    run: Run, plan: Plan, chosen: int, columns: npt.NDArray[Any], progress: Progress, resources: Resources
) -> list[tuple[ExpertShare, ...]] | Absent:
    """Of each feature the experts with most hits; why there are none where the store cannot say."""
    from analyze.overviews.sliced import absence, part_of, require_floor, require_slices

    if not run.info.model.experts and "expert_id" not in run:
        return Absent("The model has no experts: each token goes through the same MLP.", "None here")
    try:
        require_slices(run, plan)
        require_routing(run)
        magnitude = plan.question.magnitudes[chosen]
        require_floor(run, (magnitude,))
        if EXPERTS_SITE not in plan.sites:
            raise InputError(f"experts are those of {EXPERTS_SITE}, which is not among the sites looked at")
        count = run.array("expert_peak").shape[-1] if "expert_peak" in run else int(run.info.model.experts or 0)
        statistic = ExpertHits((_text(magnitude),), count)
        part: Selection = replace(part_of(plan), sites=(EXPERTS_SITE,))
        found = measure(run, [statistic], part, progress=progress, **resources.options())[statistic.name]
    except CorruptChunkError:
        raise
    except InputError as error:
        return absence(error)
    hits = found.hits.values[0, :, :, columns, 0]  # NumPy puts the indexed dimension first: (feature, layer, expert)
    tokens, layers = found.tokens.values[0], found.layer.values
    views = []
    for own in hits:
        order = np.argsort(-own.ravel().astype(np.int64), kind="stable")[:_EXPERTS]
        pairs = (np.unravel_index(i, own.shape) for i in order.tolist() if own.ravel()[i])
        views.append(tuple(ExpertShare(int(layers[i]), int(e), int(own[i, e]), int(tokens[i, e])) for i, e in pairs))
    return views


def _text(magnitude: Any) -> str:
    from analyze.quantities import decimal_text

    return decimal_text(magnitude)
