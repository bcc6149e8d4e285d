"""``null``, ``overlap`` and ``saturation`` of one run, as xarray Datasets."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import xarray as xr

from analyze.chance.growth import first_sequences, pair_counts, subset_intervals, subset_means
from analyze.chance.levels import Levels, require_levels, take_levels
from analyze.chance.null import CRITERIA, Rule, expected_counts, observed_counts, permuted_counts
from analyze.opened import opened
from analyze.progress import Progress, silent_progress
from analyze.resources import DEFAULT_RESOURCES, Resources, whole
from analyze.tables.wording import definition_words
from analyze.thresholds.answers import peak_source, refuse_zero_with_nan, tallied
from analyze.thresholds.asking import AnyRun, Magnitudes, magnitude_words
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.question import Question, ask
from schemas.errors import InputError
from schemas.run import Run

__all__ = ["PERMUTATIONS", "SEED", "null", "overlap", "saturation"]

PERMUTATIONS = 1_000
SEED = 20_220_815
_ORDERS = 1_000
MAX_PERMUTATIONS = 100_000


def null(
    run: AnyRun,
    magnitudes: Magnitudes = 6,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """What the definition counts beside what it would count if no two tensors agreed on which feature is which.

    The labels of the features are permuted in each layer unit, so that every tensor keeps its peaks (the marginals)
    and loses its agreement with the others. Dimensions: ``criterion``, ``magnitude``, ``bound``. For the criterion
    ``layers`` the position share is not asked for, and the comparison is exact, like with like. For ``layers and
    positions`` each feature's position coverage moves as a whole, as one more tensor: which of its positions belong
    to which layer only the slices know. Variables, each (criterion, magnitude):

    - ``observed``, ``observed_unique``: counted units and distinct features in the data;
    - ``expected``: the mean over all permutations there are, exact (Poisson-binomial) where a unit stands for one
      scope, else (``majority``) over those drawn; attribute ``expected_from`` says which;
    - ``interval`` (and bound): 2.5 and 97.5 percentiles over the drawn permutations; ``drawn_mean``: their mean;
    - ``p_value``: (1 + how many of them count at least what is observed) / (1 + permutations);
    - ``expected_unique``, ``interval_unique``: of the distinct features, over those drawn.

    The same permutations serve every sequence, so that its own repeats are kept. Raises InputError for more than 256
    distinct magnitudes, and what ``answer`` raises.

    >>> found = null("runs/tiny.zarr", 6, layers="100%", permutations=200).isel(magnitude=0)
    >>> found.observed.values.tolist(), found.expected.values.tolist()
    ([3, 3], [0.046875, 0.01171875])
    """
    if not 1 <= permutations <= MAX_PERMUTATIONS:
        raise InputError(f"{permutations:,} permutations; give from 1 to {MAX_PERMUTATIONS:,}, for example 1000")
    store, question, plan = _planned(run, magnitudes, knobs, "--null")
    levels = take_levels(plan, peak_source(store, plan, progress, whole(resources)))
    refuse_zero_with_nan(store, plan, levels.nonfinite)
    scoped = levels.pooled() if question.definition.scope == "pooled" else levels
    rule = Rule(plan.layers_needed, plan.positions_needed, plan.sequences_needed)
    seen, exact = observed_counts(scoped, rule), expected_counts(scoped, rule)
    drawn = permuted_counts(scoped, rule, permutations, seed)
    of = list(plan.threshold_of)
    axes = ("criterion", "magnitude")

    def limits(counts: Any) -> Any:
        return (*axes, "bound"), np.percentile(counts, [2.5, 97.5], axis=0).transpose(1, 2, 0)[:, of]

    mean = drawn.outliers.mean(axis=0)
    as_many = (drawn.outliers >= seen.outliers).sum(axis=0)
    return xr.Dataset(
        {
            "observed": (axes, seen.outliers[:, of]),
            "expected": (axes, (mean if exact is None else exact)[:, of]),
            "interval": limits(drawn.outliers),
            "drawn_mean": (axes, mean[:, of]),
            "p_value": (axes, ((1 + as_many) / (1 + permutations))[:, of]),
            "observed_unique": (axes, seen.unique[:, of]),
            "expected_unique": (axes, drawn.unique.mean(axis=0)[:, of]),
            "interval_unique": limits(drawn.unique),
        },
        {"criterion": list(CRITERIA), **_magnitudes(question), "bound": ["low", "high"]},
        {
            **_about(store, plan),
            "permutations": permutations,
            "seed": seed,
            "permuted": f"feature labels of each {question.definition.layer_unit}",
            "expected_from": "the permutations drawn" if exact is None else "all permutations (Poisson-binomial)",
        },
    )


def overlap(
    run: AnyRun,
    magnitude: str | float | Fraction | Decimal = 6,
    *,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """How far sequences agree on which features are outliers: Jaccard indices of the sets that each alone gives.

    Dimensions ``sequence`` and ``other`` (the analysed ones). ``features`` (sequence): how many meet the rule in it
    alone. ``both`` and ``either`` (sequence, other): sizes of intersection and union. ``jaccard``: their ratio, NaN
    where neither has any. ``mean_with_others`` (sequence) and ``mean_jaccard`` (): of the pairs that have one.

    >>> overlap("runs/tiny.zarr", 8).jaccard.values.tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, nan]]
    """
    store, question, plan = _planned(run, magnitude, knobs, "--overlap")
    if len(plan.thresholds) > 1:
        raise InputError(f"overlap() answers one magnitude, not {len(question.magnitudes)}: ask for each by itself")
    tally = tallied(store, plan, progress, whole(resources), [])
    refuse_zero_with_nan(store, plan, tally.nonfinite)
    met = tally.critical >= plan.thresholds[0]
    both, either = pair_counts(met)
    ratio = np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)
    apart = np.where(np.eye(len(met), dtype=bool), np.nan, ratio)
    axes = ("sequence", "other")
    return xr.Dataset(
        {
            "features": ("sequence", met.sum(axis=1)),
            "both": (axes, both),
            "either": (axes, either),
            "jaccard": (axes, ratio),
            "mean_with_others": ("sequence", [_mean(row) for row in apart]),
            "mean_jaccard": ((), _mean(apart)),
        },
        {"sequence": list(plan.sequences), "other": list(plan.sequences)},
        {**_about(store, plan), "magnitude": float(question.magnitudes[0])},
    )


def saturation(
    run: AnyRun,
    magnitudes: Magnitudes = 6,
    *,
    orders: int = _ORDERS,
    seed: int = SEED,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """Whether the count grows with tokens: unique features, and the definition's count, over n sequences.

    Dimensions: ``magnitude``, ``drawn`` (n, from 1), ``bound``; coordinate ``tokens`` (drawn). ``unique_features``:
    features that meet the rule in at least one of n sequences alone, the mean over all subsets of n of the analysed
    sequences, exact (rarefaction); ``unique_interval``: 2.5 and 97.5 percentiles over ``orders`` random orders from
    ``seed``. ``outliers``: what the definition counts in the first n of them, its shares taken of what n sequences
    hold. ``new_features``: the mean number that sequence n adds: near 0 where the curve is flat.

    >>> saturation("runs/tiny.zarr", 8).unique_features.values[0].round(3).tolist()
    [0.667, 1.0, 1.0]
    """
    if not 1 <= orders <= MAX_PERMUTATIONS:
        raise InputError(f"{orders:,} orders; give from 1 to {MAX_PERMUTATIONS:,}, for example 1000")
    store, question, plan = _planned(run, magnitudes, knobs, "--saturation")
    levels = take_levels(plan, peak_source(store, plan, progress, whole(resources)))
    refuse_zero_with_nan(store, plan, levels.nonfinite)
    of = list(plan.threshold_of)
    met = _alone(plan, levels)
    means = np.array([subset_means(met[:, :, t]) for t in range(len(plan.thresholds))])[of]
    limits = subset_intervals(met, orders, seed)[of]
    drawn = np.arange(1, len(plan.sequences) + 1)
    axes = ("magnitude", "drawn")
    return xr.Dataset(
        {
            "unique_features": (axes, means),
            "unique_interval": ((*axes, "bound"), limits),
            "new_features": (axes, np.diff(means, axis=1, prepend=0)),
            "outliers": (axes, first_sequences(plan, levels).T[of]),
        },
        {
            **_magnitudes(question),
            "drawn": drawn,
            "tokens": ("drawn", drawn * plan.dimensions.positions),
            "bound": ["low", "high"],
        },
        {**_about(store, plan), "orders": orders, "seed": seed},
    )


def _planned(run: AnyRun, magnitudes: Magnitudes, knobs: dict[str, Any], flag: str) -> tuple[Run, Question, Plan]:
    store = opened(run)
    question = ask(magnitude_words(magnitudes), **knobs)
    if question.details:
        raise InputError(f"{flag} has no details: leave out --details")
    plan = make_plan(store, question)
    require_levels(plan, flag)
    return store, question, plan


def _alone(plan: Plan, levels: Levels) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(sequence, feature, threshold): whether the rule is met in the sequence alone."""
    layers = np.stack([levels.layer_hits(t) for t in range(len(plan.thresholds))], axis=2) >= plan.layers_needed
    return np.asarray(layers & (levels.positions >= plan.sequence_positions_needed))


def _mean(values: Any) -> float:
    found = values[~np.isnan(values)]
    return float(found.mean()) if found.size else float("nan")


def _magnitudes(question: Question) -> dict[str, Any]:
    return {"magnitude": ("magnitude", [float(m) for m in question.magnitudes], {"units": "hidden state"})}


def _about(store: Run, plan: Plan) -> dict[str, Any]:
    question = plan.question
    return {
        "store": store.path,
        "model": store.info.model.name,
        "definition": question.definition.preset,
        "unit": question.definition.unit,
        "words": definition_words(plan, "the magnitude"),
        "sequences": len(plan.sequences),
        "sites": list(plan.sites),
    }
