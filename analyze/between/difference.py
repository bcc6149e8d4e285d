"""Two runs against each other: which units count in one and not in the other, and how far critical magnitudes moved."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from analyze.opened import opened
from analyze.progress import Progress, silent_progress
from analyze.quantities import decimal_text, magnitude_words
from analyze.resources import DEFAULT_RESOURCES, Resources, whole
from analyze.tables.definition_columns import definition_of_all
from analyze.tables.likeness import comparison_notes
from analyze.tables.names import model_labels
from analyze.thresholds.answers import refuse_zero_with_nan, tallied
from analyze.thresholds.asking import AnyRun
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.question import Question, ask
from schemas.bits import Encoding, decode, threshold_bits
from schemas.errors import InputError
from schemas.run import Run

__all__ = ["diff"]

Patterns = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

_LEAST = "1e-60"
"""A magnitude that every value but 0 reaches, whatever its encoding."""


def diff(
    first: AnyRun,
    second: AnyRun,
    magnitude: str | float | Fraction | Decimal = 6,
    *,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """The units that count in either of two runs at ``magnitude``, with the critical magnitude that each has in both.

    For studies of precision, prompt, checkpoint or quantisation: the two have the same features. Dimension ``unit``,
    ordered by how far the critical magnitude moved, the farthest first; coordinates ``feature`` and, where the unit
    is a (sequence, feature) pair, ``sequence``. Variables: ``critical_first`` and ``critical_second``, the largest
    magnitude at which the unit counts in each (float64, which holds them exactly, also where it is below
    ``magnitude``: 0 where none is larger, or none reaches the floor of the slices that were asked); ``moved``, second
    minus first; ``ratio``, second over first; ``counts_in``: ``both``, ``first only`` or ``second only``. Without it:
    ``outliers`` (run), ``both``, ``first_only``, ``second_only``, ``jaccard``, ``median_moved``, the median of
    ``abs(moved)`` over units in both, and ``unmoved``, how many units in both did not move. Every critical magnitude of
    every unit, counted or not, is compared by ``largest_move`` and ``all_equal``.

    Where each magnitude is answered by counts there are no critical magnitudes. Then ``peak_first`` and
    ``peak_second``, the largest ``|X|`` of the unit in each, stand in their place, and what moved is the peak.
    Attribute ``moved_of`` says which of the two it is, ``magnitude_text`` the magnitude as an exact decimal.

    (Sequence, feature) pairs are matched by their sequence's number, over the sequences that both runs have; attribute
    ``notes`` says where those are not the same tokens. Raises InputError where the runs have different numbers of
    features, StoreError and so on as ``answer``.

    >>> moved = diff("runs/tiny.zarr", "runs/other.zarr", 7)
    >>> moved.counts_in.values.tolist(), moved.moved.values.tolist()
    (['both', 'both', 'first only'], [-1.0, -1.0, -1.0])
    """
    runs = (opened(first), opened(second))
    question = ask(magnitude_words(magnitude), **knobs)
    if len(question.magnitudes) > 1:
        raise InputError(f"--diff compares at one magnitude, not {len(question.magnitudes)}: ask for each by itself")
    if question.details:
        raise InputError("--diff has no details: leave out --details")
    sizes = [run.dimensions.features for run in runs]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{runs[0].path} has {sizes[0]:,} features and {runs[1].path} {sizes[1]:,}: they cannot be told apart one "
            "by one. --diff compares runs of one model, or of models with the same hidden size"
        )
    plans = [make_plan(run, question) for run in runs]
    by_count = any(plan.by_count for plan in plans)
    if by_count:
        plans = [plan if plan.by_count else _by_count(run, question) for run, plan in zip(runs, plans, strict=True)]
    else:
        lowest = ask(_lowest(runs, plans, question), **knobs)
        plans = [make_plan(run, lowest) for run in runs]
    take = _counted if by_count else _critical
    sides = [take(run, plan, question, progress, whole(resources)) for run, plan in zip(runs, plans, strict=True)]
    shared = sorted(set(plans[0].sequences) & set(plans[1].sequences))
    pairs = question.definition.unit == "sequence-feature"
    if pairs:
        if not shared:
            raise InputError(f"{runs[0].path} and {runs[1].path} have no complete sequence in common: capture more")
        rows = [[plan.sequences.index(sequence) for sequence in shared] for plan in plans]
        sides = [(patterns[own], met[own]) for (patterns, met), own in zip(sides, rows, strict=True)]
    values = [_decoded(patterns, plan.encoding) for (patterns, _), plan in zip(sides, plans, strict=True)]
    of = "peak" if by_count else "critical"
    return _dataset(runs, plans, question, shared if pairs else None, of, values, [met for _, met in sides])


def _lowest(runs: tuple[Run, Run], plans: list[Plan], question: Question) -> str:
    """The magnitude from which critical magnitudes are known: the least, or the largest floor where slices are read.

    In units of gain, a floor is another magnitude for each feature: there it is the question's own.
    """
    floors = [Fraction(run.retention.floor or 0) for run in runs]
    if not any(floors) or all(plan.count_engine == "peaks" for plan in plans):
        return _LEAST
    own = question.magnitudes[0]
    return decimal_text(own if question.in_gain_units else min(max(floors), own))


def _by_count(run: Run, question: Question) -> Plan:
    """The plan of a question that counts decide in the other run, where a share is more than one hit."""
    return replace(make_plan(run, replace(question, engine="slices")), by_count=True)


def _counted(
    run: Run, plan: Plan, question: Question, progress: Progress, resources: Resources
) -> tuple[Patterns, Bools]:
    """Peaks of every unit and whether it counts: (sequence, feature), or (feature,) where a feature counts once."""
    tally = tallied(run, plan, progress, resources, [])
    refuse_zero_with_nan(run, plan, tally.nonfinite)
    assert tally.largest is not None
    if question.definition.unit == "sequence-feature":
        return tally.largest, tally.met_alone(0, plan.thresholds[0])
    met = np.zeros(plan.dimensions.features, np.bool_)
    met[tally.units.feature[tally.units.rows(0, plan.thresholds[0])]] = True
    return tally.largest.max(axis=0), met


def _critical(
    run: Run, plan: Plan, question: Question, progress: Progress, resources: Resources
) -> tuple[Patterns, Bools]:
    """Critical patterns of every unit and whether it counts; shaped as those of ``_counted``."""
    tally = tallied(run, plan, progress, resources, [])
    if question.magnitudes[0] == 0:
        refuse_zero_with_nan(run, make_plan(run, question), tally.nonfinite)
    critical = tally.critical
    if question.definition.unit == "feature":
        critical = np.zeros(plan.dimensions.features, plan.encoding.unsigned)
        critical[tally.units.feature] = tally.units.critical
    return critical, critical >= threshold_bits(question.magnitudes[0], plan.encoding)


def _decoded(patterns: Patterns, encoding: Encoding) -> npt.NDArray[np.float64]:
    return decode(patterns.view(encoding.stored), encoding).astype(np.float64)


def _dataset(
    runs: tuple[Run, Run],
    plans: list[Plan],
    question: Question,
    sequences: list[int] | None,
    of: str,
    values: list[npt.NDArray[np.float64]],
    met: list[npt.NDArray[np.bool_]],
) -> xr.Dataset:
    unit = np.nonzero(met[0] | met[1])
    first, second = values[0][unit], values[1][unit]
    with np.errstate(invalid="ignore"):
        everywhere = np.where(values[0] == values[1], 0.0, values[1] - values[0])
    moved = everywhere[unit]
    order = np.lexsort((*unit[::-1], -np.abs(moved)))
    here, there = met[0][unit], met[1][unit]
    where = np.where(here & there, "both", np.where(here, "first only", "second only"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(first == second, 1.0, second / first)
    coordinates: dict[str, Any] = {"feature": ("unit", unit[-1][order])}
    if sequences is not None:
        coordinates["sequence"] = ("unit", np.asarray(sequences)[unit[0]][order])
    infos = [run.info for run in runs]
    labels = model_labels(infos, [run.path for run in runs])
    notes = comparison_notes(infos, plans, labels)
    if sequences is not None and infos[0].corpus.token_sha256 != infos[1].corpus.token_sha256:
        notes.append(
            "A sequence of the one is not the same text in the other: features can be matched by --definition majority "
            "or llm-int8, (sequence, feature) pairs only by their number."
        )
    if sequences is not None and any(len(plan.sequences) > len(sequences) for plan in plans):
        notes.append(f"Only the {len(sequences)} sequences that both have are compared.")
    inside = np.abs(moved[here & there])
    either = int(where.size)
    return xr.Dataset(
        {
            f"{of}_first": ("unit", first[order]),
            f"{of}_second": ("unit", second[order]),
            "moved": ("unit", moved[order]),
            "ratio": ("unit", ratio[order]),
            "counts_in": ("unit", where[order].astype(str)),
            "outliers": ("run", [int(met[0].sum()), int(met[1].sum())]),
            "both": ((), int((here & there).sum())),
            "first_only": ((), int((here & ~there).sum())),
            "second_only": ((), int((there & ~here).sum())),
            "jaccard": ((), int((here & there).sum()) / either if either else np.nan),
            "median_moved": ((), float(np.median(inside)) if inside.size else np.nan),
            "unmoved": ((), int((inside == 0).sum())),
            "largest_move": ((), float(np.abs(everywhere).max())),
            "all_equal": ((), bool((values[0] == values[1]).all())),
        },
        {**coordinates, "run": labels},
        {
            "stores": [run.path for run in runs],
            **definition_of_all(plans, labels, decimal_text(question.magnitudes[0])),
            "magnitude": float(question.magnitudes[0]),
            "magnitude_text": decimal_text(question.magnitudes[0]),
            "moved_of": "peak" if of == "peak" else "critical magnitude",
            "notes": notes,
        },
    )
