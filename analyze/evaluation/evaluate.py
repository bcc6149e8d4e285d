"""Criteria evaluated on a store: one pass over the slices for all of them, each answer an xarray Dataset."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analyze.criteria import criteria_named, written_names
from analyze.gain import require_gains
from analyze.opened import opened
from analyze.progress import Progress, silent_progress
from analyze.statistics.measure import measure
from analyze.statistics.selection import EVERYTHING, Chosen, Selection, choose
from analyze.statistics.tensors import CAPTURE_RESIDUAL, Kind, Tensor, TensorStatistic, find_tensors
from schemas.errors import CorruptChunkError, StoreError
from schemas.layout import nonfinite_name
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

    from analyze.evaluation.criterion import Criterion
    from analyze.thresholds.asking import AnyRun

__all__ = ["evaluate_criteria"]

_Found = tuple[tuple[Tensor, ...], tuple[str, ...]]
"""Tensors, and why others cannot be had."""


def evaluate_criteria(
    store: AnyRun,
    criteria: str | Iterable[str] = "all",
    selection: Selection = EVERYTHING,
    *,
    progress: Progress = silent_progress,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """The answer of each of ``criteria``, by name: a Dataset over (tensor, layer).

    ``criteria``: ``massive,kurtosis``, the names as a tuple or list, or ``all``.
    What its variables are, the criterion's module in ``analyze.criteria`` says. ``tensor`` is a norm output by its
    site's name, or the residual that entered that norm; ``attrs`` carry the formula, its source, and under
    ``left_out`` why a tensor is not among them. ``options`` are those of ``measure``.

    Raises InputError for a criterion that there is not, and StoreError for one whose data was not captured, naming
    the flag that captures it; ``all`` leaves such a criterion out, and with ``skip_corrupt`` one whose data is damaged.

    >>> found = evaluate_criteria("runs/tiny.zarr", "kurtosis,systematic-channels")
    >>> found["kurtosis"].kurtosis.sel(tensor="ln_mlp").values.round(3).tolist()
    [3.436, 3.436]
    >>> found["systematic-channels"].outlier.sel(tensor="ln_attn", layer=0).values.tolist()
    [False, False, False, False]
    """
    run = opened(store)
    names = written_names(criteria)
    wanted = criteria_named(names)
    chosen = choose(run, selection, slices=False)  # what no criterion can be evaluated of is told once
    if selection.in_gain_units:
        require_gains(run, chosen)
    tensors_of = functools.cache(lambda kinds: find_tensors(run, choose(run, selection), kinds))
    lenient = "all" in names
    answers: dict[str, xr.Dataset] = {}
    absent: list[str] = []
    sliced: list[tuple[Criterion, tuple[Tensor, ...], tuple[str, ...]]] = []
    for criterion in wanted:
        try:
            if criterion.read is not None:
                answers[criterion.name] = _read(run, criterion, selection)
            else:
                sliced.append((criterion, *_prepared(run, criterion, selection, tensors_of)))
        except StoreError as error:
            if not lenient or (isinstance(error, CorruptChunkError) and not options.get("skip_corrupt", False)):
                raise
            absent.append(f"No {criterion.name}: {error}")
    if not answers and not sliced:
        raise StoreError(" ".join(absent))
    needed: dict[type[TensorStatistic], dict[str, Tensor]] = {}
    for criterion, tensors, _ in sliced:
        needed.setdefault(_statistic(criterion), {}).update({tensor.label: tensor for tensor in tensors})
    statistics = [kind(tuple(tensors.values())) for kind, tensors in needed.items()]
    measured = measure(run, statistics, selection, progress=progress, **options) if statistics else {}
    for criterion, tensors, reasons in sliced:
        answers[criterion.name] = _evaluated(criterion, measured, tensors, reasons)
    common = {"store": os.fspath(run.path), "model": run.info.model.name, "absent": absent}
    nonfinite, unread = _nonfinite(run, chosen, options.get("skip_corrupt", False))
    for answer in answers.values():
        of_values = "tensor" in answer.dims
        answer.attrs |= {**common, "nonfinite": nonfinite if of_values else 0}
        if of_values and unread:
            answer.attrs["excluded"] = [*answer.attrs["excluded"], f"how many values are NaN or infinite: {unread}"]
    return {criterion.name: answers[criterion.name] for criterion in wanted if criterion.name in answers}


def _nonfinite(run: Run, chosen: Chosen, skip_corrupt: bool) -> tuple[int | None, str]:
    """How many values of the chosen cells are NaN or infinite, at any position; None and why where that is unread."""
    names = [nonfinite_name(array) for array in dict.fromkeys(chosen.arrays)]
    try:
        counts = [run.read(name, (slice(None), q))[list(chosen.layers)] for name in names for q in chosen.sequences]
    except CorruptChunkError as error:
        if not skip_corrupt:
            raise
        return None, str(error)
    return int(sum(int(count.sum()) for count in counts)), ""


def _statistic(criterion: Criterion) -> type[TensorStatistic]:
    """The class of its statistic, which its criteria share."""
    if criterion.statistic is None:
        raise TypeError(f"criterion {criterion.name} has neither a statistic nor something to read")
    return criterion.statistic


def _prepared(run: Run, criterion: Criterion, selection: Selection, tensors_of: Callable[[Any], _Found]) -> _Found:
    """The tensors that a criterion is evaluated on, and why others are left out.

    Raises StoreError where the store has none, or not all values.
    """
    again = "capture the model again with --keep slices"
    if not run.retention.slices:
        raise StoreError(f"--criteria {criterion.name} reads slices, and {run.path} holds peaks only: {again}")
    if run.retention.floor is not None:
        floor = run.retention.floor
        raise StoreError(
            f"--criteria {criterion.name} needs all values, and {run.path} was captured with --keep floor={floor}: its "
            f"slices are zero below {floor}, so they answer hits at {floor} or more alone; {again}"
        )
    kinds: tuple[Kind, ...] = criterion.kinds
    if selection.in_gain_units:
        kinds = tuple(kind for kind in kinds if kind != "residual")
        if not kinds:
            raise StoreError(
                f"--criteria {criterion.name} is about the residual, which no norm's gain has scaled: leave out "
                "--in-gain-units"
            )
    tensors, reasons = tensors_of(kinds)
    if not tensors:
        told = _because(reasons) if reasons else "none of the chosen sites is a norm's output"
        raise StoreError(f"--criteria {criterion.name} is about the {' and the '.join(criterion.kinds)}: {told}")
    left_out = (_because(reasons),) if reasons else ()
    if kinds != criterion.kinds:
        left_out = (*left_out, "no residual: no norm's gain has scaled it, and --in-gain-units divides by that")
    return tensors, left_out


def _because(reasons: Sequence[str]) -> str:
    """What cannot be had and why, and what would give it."""
    return f"{'; '.join(reasons)}. {CAPTURE_RESIDUAL}"


def _read(run: Run, criterion: Criterion, selection: Selection) -> xr.Dataset:
    if criterion.read is None:
        raise TypeError(f"criterion {criterion.name} reads nothing")
    if selection.positions is not None or selection.tokens is not None:
        raise StoreError(
            f"--criteria {criterion.name} is of all positions, as capture saw them; leave out the choice of positions"
        )
    if selection.in_gain_units:
        raise StoreError(
            f"--criteria {criterion.name} reads no norm's output, and is in no units of gain: leave out --in-gain-units"
        )
    chosen = choose(run, selection, slices=False)
    answer = criterion.read(run, chosen)
    answer.attrs = {**_attributes(criterion), "left_out": []}
    return answer


def _attributes(criterion: Criterion) -> dict[str, Any]:
    return {
        "criterion": criterion.name,
        "title": criterion.title,
        "formula": criterion.formula,
        "source": criterion.source,
    }


def _evaluated(
    criterion: Criterion, measured: Mapping[str, xr.Dataset], tensors: Sequence[Tensor], left_out: Sequence[str]
) -> xr.Dataset:
    if criterion.evaluate is None:
        raise TypeError(f"criterion {criterion.name} has no way to be evaluated")
    statistic = measured[_statistic(criterion).name]
    answer = criterion.evaluate(statistic.sel(tensor=[tensor.label for tensor in tensors]))
    answer.attrs = {
        **_attributes(criterion),
        "left_out": list(left_out),
        "excluded": statistic.attrs["excluded"],
    }
    return answer
