"""Counts of layers and positions at the least shares: what answers every larger share and magnitude exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from analyze.overviews.columns import Exact, columns, held_lengths
from analyze.overviews.ladders import Climb, needed_of
from analyze.overviews.packing import packed
from analyze.overviews.results import Coverage, PhaseMap, ShareStep
from analyze.progress import Progress
from analyze.quantities import Share
from analyze.resources import Resources
from analyze.thresholds.answers import tallied
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.question import Question
from analyze.thresholds.units import Units
from schemas.run import Run

__all__ = [
    "LEAST_LAYERS",
    "LEAST_POSITIONS",
    "Lattice",
    "by_sequence",
    "least_question",
    "share_steps",
    "take_lattice",
]

Counts = npt.NDArray[np.int64]

LEAST_LAYERS = Fraction(5, 100)
LEAST_POSITIONS = Fraction(1, 100)
"""Least shares that a report answers, unless lesser ones are asked for: below them nearly every feature is hit."""

_PHASE_STEPS = 20


def share_steps(asked: Share, least: Fraction) -> tuple[tuple[ShareStep, ...], int]:
    """The whole percents from ``least`` on, and the share that was asked for among them; and its place.

    >>> steps, place = share_steps(Share("1/3", Fraction(1, 3)), Fraction(5, 100))
    >>> [step.text for step in steps[place - 1 : place + 2]]
    ['33%', '1/3', '34%']
    """
    values = {Fraction(n, 100): f"{n}%" for n in range(1, 101) if Fraction(n, 100) >= least}
    values.setdefault(asked.value, asked.text)
    ordered = sorted(values)
    steps = tuple(ShareStep(values[value], value.numerator, value.denominator) for value in ordered)
    return steps, ordered.index(asked.value)


@dataclass(frozen=True)
class Lattice:
    """``pairs`` are (sequence, feature) units at the least shares; ``features`` those of a definition that counts them.

    ``plan`` is that of the definition itself at the shares asked.
    """

    plan: Plan
    pairs: Units
    features: Units | None

    def coverage(self, position_shares: Sequence[ShareStep], climb: Climb, looked: Sequence[int]) -> Coverage:
        """The packed form, for those shares of positions; ``looked``: features that are looked at closely."""
        plan, closely = self.plan, np.array(looked, np.int64)
        ladders = None if plan.by_count else climb
        pooled = plan.question.definition.scope == "pooled"
        exact: Exact = "none" if pooled else "listed" if not plan.uneven and self.features is None else "all"
        features = None
        if pooled and self.features is not None:
            features = packed(columns(self.features, plan, position_shares, "all", closely, ladders))
        elif self.features is not None:
            order = np.argsort(self.features.feature)
            feature, peak = self.features.feature[order], self.features.peak[order]
            features = packed([np.diff(feature, prepend=0), peak])
        return Coverage(
            encoding=plan.encoding.name,
            thresholds=plan.thresholds,
            threshold_of=plan.threshold_of,
            pairs=packed(columns(self.pairs, plan, position_shares, exact, closely, None if pooled else ladders)),
            pairs_exact=exact,
            features=features,
        )

    def phase_map(self) -> PhaseMap:
        """Counts over magnitude and layer share, at the position share asked."""
        shares = [Fraction(step, _PHASE_STEPS) for step in range(1, _PHASE_STEPS + 1)]
        needed = [-(-share.numerator * self.plan.layers_total // share.denominator) for share in shares]
        columns = [self._counts(threshold, needed) for threshold in range(len(self.plan.thresholds))]
        return PhaseMap(
            tuple(f"{100 * share.numerator // share.denominator}%" for share in shares),
            tuple(tuple(columns[t][row] for t in self.plan.threshold_of) for row in range(len(shares))),
        )

    def _counts(self, threshold: int, needed: Sequence[int]) -> list[int]:
        """Units counted at one threshold with each number of layers needed."""
        plan = self.plan
        pooled = plan.question.definition.scope == "pooled"
        units = self.features if pooled and self.features is not None else self.pairs
        rows = np.flatnonzero(held_lengths(units, plan) > threshold)
        found = units.coverage(threshold, rows)
        least = needed_of(plan.question.positions, found.positions_total)
        enough = (found.positions >= least) & (found.positions_total > 0)
        layers, feature = found.layers[enough], units.feature[rows[enough]]
        if plan.sequences_needed is None:
            return [int(np.count_nonzero(layers >= least)) for least in needed]
        times = [np.bincount(feature[layers >= least], minlength=1) for least in needed]
        return [int(np.count_nonzero(row >= plan.sequences_needed)) for row in times]


def least_question(question: Question, layer_share: ShareStep, position_share: ShareStep) -> Question:
    """The question at the least shares given."""
    least = replace(question, layers=_share(layer_share), positions=_share(position_share))
    if question.definition.position_coverage == "mean":  # a mean over affected layers can fall and rise again: all held
        least = replace(least, positions=Share("0", Fraction(1, 10**12)))
    return least


def by_sequence(question: Question) -> Question:
    """The question of each sequence by itself."""
    return replace(question, definition=replace(question.definition, scope="sequence", sequence_share=None))


def take_lattice(
    run: Run, question: Question, least: Question, pairs: Units, progress: Progress, resources: Resources
) -> Lattice:
    """The lattice of a question from its ``pairs``, down to what is ``least``; one of features takes a pass."""
    features = None
    if question.definition.unit != "sequence-feature":
        features = tallied(run, make_plan(run, least), progress, resources, []).units
    return Lattice(make_plan(run, question), pairs, features)


def _share(step: ShareStep) -> Share:
    return Share(step.text, Fraction(step.numerator, step.denominator))
