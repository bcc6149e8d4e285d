"""``null``, ``overlap`` and ``saturation`` of one run, as xarray Datasets."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from analyze.chance.growth import (
    counted_growth,
    first_sequences,
    met_alone,
    pair_counts,
    subset_intervals,
    subset_means,
)
from analyze.chance.levels import counted_levels, require_levels, take_levels
from analyze.chance.null import CRITERIA, Rule, expected_counts, observed_counts, permuted_counts
from analyze.opened import opened
from analyze.progress import Progress, silent_progress
from analyze.quantities import Magnitudes, decimal_text, magnitude_words
from analyze.resources import DEFAULT_RESOURCES, Resources, whole
from analyze.tables.definition_columns import definition_attributes
from analyze.thresholds.answers import count_source, peak_source, refuse_zero_with_nan, tallied
from analyze.thresholds.asking import AnyRun
from analyze.thresholds.known_numbers import Numbers, known_numbers
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.question import Question, ask
from schemas.errors import InputError
from schemas.run import Run

__all__ = ["PERMUTATIONS", "SEED", "drawn_tokens", "growth_numbers", "null", "overlap", "saturation"]

PERMUTATIONS = 1_000
SEED = 20_220_815
ORDERS = 1_000
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
    and loses its agreement with the others. Dimensions: ``criterion``, ``magnitude`` (its exact decimals are the
    coordinate ``magnitude_text``), ``bound``. For the criterion
    ``layers`` the position share is not asked for, and the comparison is exact, like with like. For ``layers and
    positions`` each feature's position coverage moves as a whole, as one more tensor: in which layer a position was
    hit peaks do not know. Where it is the mean over affected layers or a density, hits are counted by layer and move
    with it: that too is like with like. Attribute ``coverage_moves`` says which. Variables, each (criterion,
    magnitude):

    - ``observed``, ``observed_unique``: counted units and distinct features in the data;
    - ``expected``: the mean over all permutations there are, exact (Poisson-binomial), or over those drawn: for
      ``majority``, and of hits that move with their layers for both shares; attribute ``expected_from`` says which;
    - ``interval`` (and bound): 2.5 and 97.5 percentiles over the drawn permutations; ``drawn_mean``: their mean;
    - ``p_value``: (1 + how many of them count at least what is observed) / (1 + permutations);
    - ``expected_unique``, ``interval_unique``: of the distinct features, over those drawn.

    The same permutations serve every sequence, so that its own repeats are kept. What was found is kept beside the
    store, and is the answer to the same question again. Raises InputError for more than 256 distinct magnitudes, or
    more than 2**25 counts by layer that would move, and what ``answer`` raises.

    >>> found = null("runs/tiny.zarr", 6, layers="100%", permutations=200).isel(magnitude=0)
    >>> found.observed.values.tolist(), found.expected.values.tolist()
    ([3, 3], [0.046875, 0.01171875])
    """
    _require_draws(permutations, "permutations")
    _require_seed(seed)
    store, question, plan = _planned(run, magnitudes, knobs, "--null")
    given = whole(resources)

    def measured() -> Numbers:
        return _against_chance(store, plan, permutations, seed, progress, given)

    found = known_numbers(store, plan, given.cache, "null", measured, permutations=permutations, seed=seed)
    of = list(plan.threshold_of)
    axes = ("criterion", "magnitude")
    bound = (*axes, "bound")
    by_layer = question.definition.position_coverage != "union"
    drawn, exact = "the permutations drawn", "all permutations (Poisson-binomial)"
    return xr.Dataset(
        {name: (bound if name.startswith("interval") else axes, values[:, of]) for name, values in found.items()},
        {"criterion": list(CRITERIA), **_magnitudes(question), "bound": ["low", "high"]},
        {
            **_about(store, plan),
            "permutations": permutations,
            "seed": seed,
            "permuted": f"feature labels of each {question.definition.layer_unit}",
            "coverage_moves": "with its layers" if by_layer else "as a whole",
            "expected_from": drawn
            if plan.sequences_needed is not None
            else f"{exact} for layers, {drawn} for layers and positions"
            if by_layer
            else exact,
        },
    )


def _against_chance(
    store: Run, plan: Plan, permutations: int, seed: int, progress: Progress, resources: Resources
) -> Numbers:
    """The variables of ``null``, by the plan's thresholds."""
    if plan.by_count:
        scoped = counted_levels(plan, count_source(store, plan, progress, resources, cells_by_layer=True))
    else:
        levels = take_levels(plan, peak_source(store, plan, progress, resources))
        scoped = levels.pooled() if plan.question.definition.scope == "pooled" else levels
    refuse_zero_with_nan(store, plan, scoped.nonfinite)
    needed: int | tuple[int, ...] = plan.positions_needed
    if plan.question.definition.scope == "sequence":
        needed = tuple(plan.question.positions.of(positions) for positions in plan.positions_of)
    rule = Rule(plan.layers_needed, needed, plan.sequences_needed)
    seen, exact = observed_counts(scoped, rule), expected_counts(scoped, rule)
    drawn = permuted_counts(scoped, rule, permutations, seed)
    mean = drawn.outliers.mean(axis=0)

    def limits(counts: Any) -> Any:
        return np.percentile(counts, [2.5, 97.5], axis=0).transpose(1, 2, 0)

    return {
        "observed": seen.outliers,
        "expected": mean if exact is None else np.where(np.isnan(exact), mean, exact),
        "interval": limits(drawn.outliers),
        "drawn_mean": mean,
        "p_value": (1 + (drawn.outliers >= seen.outliers).sum(axis=0)) / (1 + permutations),
        "observed_unique": seen.unique,
        "expected_unique": drawn.unique.mean(axis=0),
        "interval_unique": limits(drawn.unique),
    }


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
    Attribute ``magnitude_text``: the exact decimal.

    >>> overlap("runs/tiny.zarr", 8).jaccard.values.tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, nan]]
    """
    store, question, plan = _planned(run, magnitude, knobs, "--overlap")
    if len(question.magnitudes) > 1:
        raise InputError(f"--overlap answers one magnitude, not {len(question.magnitudes)}: ask for each by itself")
    tally = tallied(store, plan, progress, whole(resources), [])
    refuse_zero_with_nan(store, plan, tally.nonfinite)
    met = tally.met_alone(0, plan.thresholds[0])
    both, either = pair_counts(met)
    ratio = np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)
    apart = np.where(np.eye(len(met), dtype=bool), np.nan, ratio)
    axes = ("sequence", "other")
    at = decimal_text(question.magnitudes[0])
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
        {**_about(store, plan), "magnitude": float(question.magnitudes[0]), "magnitude_text": at},
    )


def saturation(
    run: AnyRun,
    magnitudes: Magnitudes = 6,
    *,
    orders: int = ORDERS,
    seed: int = SEED,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """Whether the count grows with tokens: unique features, and the definition's count, over n sequences.

    Dimensions: ``magnitude`` (exact: ``magnitude_text``), ``drawn`` (n, from 1), ``bound``; ``tokens`` (drawn): those
    looked at in n sequences, the mean over all choices of n where sequences differ. ``unique_features``: features that
    meet the rule in at least one of n sequences alone, the mean over all subsets of n of the analysed sequences, exact
    (rarefaction); ``unique_interval``: 2.5 and 97.5 percentiles over ``orders`` random orders from ``seed``.
    ``outliers``: what the definition counts in the first n of them, its shares taken of what n sequences hold.
    ``new_features``: the mean number that sequence n adds: near 0 where the curve is flat. What was found is kept
    beside the store, and is the answer to the same question again.

    >>> saturation("runs/tiny.zarr", 8).unique_features.values[0].round(3).tolist()
    [0.667, 1.0, 1.0]
    """
    _require_draws(orders, "orders")
    _require_seed(seed)
    store, question, plan = _planned(run, magnitudes, knobs, "--saturation")
    given = whole(resources)

    def measured() -> Numbers:
        return _growth(store, plan, orders, seed, progress, given)

    found = known_numbers(store, plan, given.cache, "saturation", measured, orders=orders, seed=seed)
    of = list(plan.threshold_of)
    means = found["unique_features"][of]
    axes = ("magnitude", "drawn")
    return xr.Dataset(
        {
            "unique_features": (axes, means),
            "unique_interval": ((*axes, "bound"), found["unique_interval"][of]),
            "new_features": (axes, np.diff(means, axis=1, prepend=0)),
            "outliers": (axes, found["outliers"][of]),
        },
        {
            **_magnitudes(question),
            "drawn": np.arange(1, len(plan.sequences) + 1),
            "tokens": ("drawn", list(drawn_tokens(plan))),
            "bound": ["low", "high"],
        },
        {**_about(store, plan), "orders": orders, "seed": seed},
    )


def drawn_tokens(plan: Plan) -> tuple[float, ...]:
    """Tokens looked at in n of the sequences, n from 1: the mean over all choices of n where sequences differ."""
    size, total = len(plan.sequences), sum(plan.positions_of)
    return tuple(n * total / size if plan.uneven else n * total // size for n in range(1, size + 1))


def _planned(run: AnyRun, magnitudes: Magnitudes, knobs: dict[str, Any], flag: str) -> tuple[Run, Question, Plan]:
    store = opened(run)
    question = ask(magnitude_words(magnitudes), **knobs)
    if question.details:
        raise InputError(f"{flag} has no details: leave out --details")
    plan = make_plan(store, question)
    require_levels(plan, flag)
    return store, question, plan


def _require_draws(number: int, what: str) -> None:
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise InputError(f"{what}={number!r} is no whole number: give from 1 to {MAX_PERMUTATIONS:,}, for example 1000")
    if not 1 <= number <= MAX_PERMUTATIONS:
        raise InputError(f"{number:,} {what}; give from 1 to {MAX_PERMUTATIONS:,}, for example 1000")


def _require_seed(seed: int) -> None:
    if not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"seed {seed!r} is not one: give a whole number from 0 on, for example {SEED}")


def _growth(store: Run, plan: Plan, orders: int, seed: int, progress: Progress, resources: Resources) -> Numbers:
    """What ``saturation`` is made of, by the plan's thresholds."""
    if plan.by_count:
        met, outliers, nonfinite = counted_growth(plan, count_source(store, plan, progress, resources))
    else:
        levels = take_levels(plan, peak_source(store, plan, progress, resources))
        met, outliers, nonfinite = met_alone(plan, levels), first_sequences(plan, levels), levels.nonfinite
    refuse_zero_with_nan(store, plan, nonfinite)
    return growth_numbers(met, outliers, orders, seed)


def growth_numbers(
    met: npt.NDArray[np.bool_], outliers: npt.NDArray[np.int64], orders: int = ORDERS, seed: int = SEED
) -> Numbers:
    """By threshold what ``saturation`` says, of ``met`` (sequence, feature, threshold) and outliers (n, threshold)."""
    thresholds = range(met.shape[2])
    return {
        "unique_features": np.array([subset_means(met[:, :, t]) for t in thresholds]),
        "unique_interval": subset_intervals(met, orders, seed),
        "outliers": outliers.T,
    }


def _mean(values: Any) -> float:
    found = values[~np.isnan(values)]
    return float(found.mean()) if found.size else float("nan")


def _magnitudes(question: Question) -> dict[str, Any]:
    units = "gain" if question.in_gain_units else "hidden state"
    return {
        "magnitude": ("magnitude", [float(m) for m in question.magnitudes], {"units": units}),
        "magnitude_text": ("magnitude", [decimal_text(m) for m in question.magnitudes]),
    }


def _about(store: Run, plan: Plan) -> dict[str, Any]:
    question = plan.question
    magnitude = decimal_text(question.magnitudes[0]) if len(question.magnitudes) == 1 else "the magnitude"
    return {
        "store": store.path,
        "model": store.info.model.name,
        **definition_attributes(plan, magnitude),
        "sequences": len(plan.sequences),
    }
