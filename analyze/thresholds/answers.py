"""From a store and a question to results: plan, one pass over peaks or slices, details where asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from analyze.progress import Progress, silent_progress
from analyze.resources import DEFAULT_RESOURCES, Resources
from analyze.thresholds.known_survival import known_survival, survives
from analyze.thresholds.known_tally import known_tally
from analyze.thresholds.peaks import PeakSource, SequencePeaks, stored_peaks
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.question import Question
from analyze.thresholds.results import Result, assemble, assemble_survival
from analyze.thresholds.tally import Tally, take_tallies, take_tally
from schemas.errors import CorruptChunkError, InputError
from schemas.perplexity import Perplexity, perplexity
from schemas.run import Run

if TYPE_CHECKING:
    from analyze.statistics.work import Excluded
    from analyze.thresholds.counting import CountSource, SequenceCounts
    from analyze.thresholds.details import Details

__all__ = [
    "answer",
    "answer_and_least",
    "count_source",
    "engine_advised",
    "peak_source",
    "refuse_zero_with_nan",
    "run_perplexity",
    "tallied",
]


def answer(
    store: str | os.PathLike[str],
    question: Question,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    *,
    features: bool = True,
) -> list[Result]:
    """One result for each of the question's magnitudes, in their order; ``resources`` are for passes over the slices.

    ``features``: False where the results' units will not be listed. Then counts from the stored peaks are read, at any
    magnitudes, from what one pass over them found, kept beside the store unless ``resources`` have no cache.

    Raises StoreError where ``store`` is no store, is partial or lacks what was asked of it, InputError for a site
    that it has not, CorruptChunkError naming a chunk that fails its checksum.

    >>> from analyze import ask
    >>> [result.outliers for result in answer("runs/tiny.zarr", ask("6,9"))]
    [3, 1]
    """
    run = Run(store)
    plan = make_plan(run, question)
    with engine_advised(run, plan, resources):
        return _answered(run, plan, os.fspath(store), progress, resources, features=features)


def _answered(
    run: Run, plan: Plan, store: str, progress: Progress, resources: Resources, *, features: bool
) -> list[Result]:
    question = plan.question
    if not features and survives(plan):
        survival = known_survival(run, plan, cache=resources.cache)
        if survival is not None:
            refuse_zero_with_nan(run, plan, survival.nonfinite)
            of_losses = run_perplexity(run, plan, skip_corrupt=resources.skip_corrupt)
            return assemble_survival(store, run.info, plan, survival, of_losses)

    excluded: list[Excluded] = []

    def measured() -> tuple[Tally, Details | None]:
        tally = _tallied(run, plan, progress, resources, excluded)
        if not question.details:
            return tally, None
        refuse_zero_with_nan(run, plan, tally.nonfinite)  # before another pass
        from analyze.thresholds.details import measure_details

        return tally, measure_details(run, plan, tally.units, progress, resources, excluded)

    tally, details = known_tally(run, plan, resources.cache, excluded, measured)
    refuse_zero_with_nan(run, plan, tally.nonfinite)
    of_losses = run_perplexity(run, plan, skip_corrupt=resources.skip_corrupt)
    return assemble(store, run.info, plan, tally, details, of_losses, _left_out(excluded))


def answer_and_least(
    store: str | os.PathLike[str], question: Question, least: Question, progress: Progress, resources: Resources
) -> tuple[list[Result], Tally]:
    """The results of ``question``, and the tally of ``least``: the same at lesser shares, sequences by themselves.

    One pass over stored peaks gives both; what takes more is asked twice.
    """
    run = Run(store)
    plan, other = make_plan(run, question), make_plan(run, least)
    if plan.by_count or plan.count_engine != "peaks" or question.definition.scope == "pooled":
        return answer(store, question, progress, resources), tallied(run, other, progress, resources, [])
    with engine_advised(run, plan, resources):
        held, tally = take_tallies([other, plan], peak_source(run, plan, progress, resources))
    refuse_zero_with_nan(run, plan, tally.nonfinite)
    of_losses = run_perplexity(run, plan, skip_corrupt=resources.skip_corrupt)
    return assemble(os.fspath(store), run.info, plan, tally, None, of_losses, ()), held


def tallied(run: Run, plan: Plan, progress: Progress, resources: Resources, excluded: list[Excluded]) -> Tally:
    """The tally of ``plan``, from peaks or by counts, or as it was kept when it took the slices before.

    Cells that are skipped as damaged go into ``excluded``.
    """
    return known_tally(
        run, plan, resources.cache, excluded, lambda: (_tallied(run, plan, progress, resources, excluded), None)
    )[0]


def _tallied(run: Run, plan: Plan, progress: Progress, resources: Resources, excluded: list[Excluded]) -> Tally:
    if not plan.by_count:
        return take_tally(plan, peak_source(run, plan, progress, resources, excluded))
    from analyze.thresholds.counting import count_tally

    return count_tally(plan, count_source(run, plan, progress, resources, excluded))


def _left_out(excluded: list[Excluded]) -> tuple[str, ...]:
    if not excluded:
        return ()
    from analyze.thresholds.slices import excluded_words

    return excluded_words(excluded)


def peak_source(
    run: Run,
    plan: Plan,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    excluded: list[Excluded] | None = None,
) -> PeakSource:
    """The peaks that ``plan`` is answered from: the stored ones, or anew from the slices.

    Cells that are skipped because they cannot be read are added to ``excluded``.
    """

    def source() -> Iterator[SequencePeaks]:
        if plan.count_engine == "peaks":
            return stored_peaks(run, plan)
        from analyze.thresholds.slices import sliced_peaks  # Dask and xarray take two seconds: only where they are used

        return sliced_peaks(run, plan, progress, resources, [] if excluded is None else excluded)

    return source


def count_source(
    run: Run,
    plan: Plan,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    excluded: list[Excluded] | None = None,
    *,
    cells_by_layer: bool = False,
) -> CountSource:
    """The hits that ``plan`` is answered from, counted in the slices; ``excluded`` as in ``peak_source``."""

    def source() -> Iterator[SequenceCounts]:
        from analyze.thresholds.slices import sliced_counts

        left_out = [] if excluded is None else excluded
        return sliced_counts(run, plan, progress, resources, left_out, cells_by_layer=cells_by_layer)

    return source


def refuse_zero_with_nan(run: Run, plan: Plan, nonfinite: int) -> None:
    """Raise at magnitude 0 where a NaN may be: it is no hit, and a peak of nothing but NaN is 0, which is one."""
    if nonfinite and plan.thresholds[0] == 0:
        raise InputError(
            f"--magnitude 0 cannot be answered for {run.path}: {nonfinite:,} of its values "
            f"{'is' if nonfinite == 1 else 'are'} NaN or infinite, and "
            "peaks do not tell a NaN from 0. Ask for more than 0, for example 1e-30"
        )


def run_perplexity(run: Run, plan: Plan, *, skip_corrupt: bool = False) -> Perplexity:
    """That of the analysed sequences; none where the store has no losses, or damage is skipped and they have some."""
    if "token_nll" not in run:
        return Perplexity(None, 0, 0)
    try:
        return perplexity(np.stack([run.read("token_nll", (sequence,)) for sequence in plan.sequences]))
    except CorruptChunkError as error:
        if not skip_corrupt:
            raise
        return Perplexity(None, 0, 0, str(error))


@contextmanager
def engine_advised(run: Run, plan: Plan, resources: Resources) -> Iterator[None]:
    """Where damage is to be skipped and stored peaks have some, says which engine does: a peak is of many cells."""
    try:
        yield
    except CorruptChunkError as error:
        if resources.skip_corrupt and plan.count_engine == "peaks" and all(array in run for array in plan.arrays):
            raise CorruptChunkError(
                f"{error}. --skip-corrupt leaves out cells of the slices: answer from those, with --engine slices"
            ) from None
        raise
