"""Any number of statistics of a store, in one pass over its slices."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from analyze.gain import require_gains
from analyze.memory import default_memory_limit, resident_bytes
from analyze.progress import Progress, silent_progress
from analyze.quantities import decimal_text
from analyze.resources import Resources
from analyze.statistics.cache import Cache
from analyze.statistics.cells import CellReader
from analyze.statistics.pass_plan import PassPlan, plan_pass
from analyze.statistics.passes import Pass
from analyze.statistics.scheduler import Scheduler, open_scheduler
from analyze.statistics.selection import EVERYTHING, Chosen, Selection, choose
from analyze.statistics.statistic import Context, Key, Partial, Reduction, Statistic
from analyze.statistics.work import Excluded, merged
from schemas.errors import InputError, StoreError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["measure", "prepare"]


def prepare(
    run: Run,
    chosen: Chosen,
    statistics: Sequence[Reduction],
    resources: Resources,
    scheduler: Scheduler,
    *,
    streamed: bool = False,
) -> PassPlan:
    """How the pass will be made; raises InputError or StoreError for what cannot be measured, or not in that memory."""
    for statistic in statistics:
        _require(run, chosen, statistic)
    import xarray  # noqa: F401  # so that what the process holds already counts it

    from analyze.statistics import peak_kernel  # noqa: F401

    return plan_pass(
        run,
        chosen,
        statistics,
        memory_limit=resources.memory_limit or default_memory_limit(),
        threads=scheduler.workers,
        base_bytes=resident_bytes(),
        streamed=streamed,
        apart=resources.skip_corrupt,
    )


def measure(
    run: Run,
    statistics: Sequence[Statistic],
    selection: Selection = EVERYTHING,
    *,
    memory_limit: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    progress: Progress = silent_progress,
    skip_corrupt: bool = False,
    cache: bool = True,
) -> dict[str, xr.Dataset]:
    """The result of each statistic, by its name: what its own docstring says, of the selected part of ``run``.

    ``memory_limit`` in bytes, a quarter of the machine's by default; ``threads``, as many as there are processors;
    ``scheduler``, the address of a Dask cluster's, or a file that has it. The digits depend on none of them. With
    ``cache``, what was measured before of the very same store is not measured again (``analyze.statistics.cache``).

    Raises InputError or StoreError for what cannot be measured, or not in that memory (in units of gain, where a gain
    is 0, not finite or not stored), CorruptChunkError naming a
    chunk that fails its checksum. With ``skip_corrupt`` such a cell of a sequence is left out, and each result's
    attribute ``excluded`` lists those.
    """
    names = [statistic.name for statistic in statistics]
    if len(set(names)) < len(names):
        raise InputError(f"statistics with one name: {', '.join(sorted(names))}")
    resources = Resources(memory_limit, threads, scheduler, skip_corrupt)
    chosen = choose(run, selection)
    for statistic in statistics:
        _require(run, chosen, statistic)
    beside = dict.fromkeys(array for statistic in statistics for array in statistic.beside)
    least_gain = require_gains(run, chosen, beside) if chosen.in_gain_units else None
    for statistic in statistics:
        _require_values(run, statistic, least_gain)
    known = Cache(run, chosen, cache)
    results = {statistic.name: known.find(statistic) for statistic in statistics}
    unknown = [statistic for statistic in statistics if results[statistic.name] is None]
    if unknown:
        with open_scheduler(scheduler, resources.processors) as there:
            measured = _measured(run, chosen, unknown, resources, there, progress)
        for statistic in unknown:
            results[statistic.name] = measured[statistic.name]
            known.keep(statistic, measured[statistic.name])
    return {name: result for name, result in results.items() if result is not None}


def _measured(
    run: Run,
    chosen: Chosen,
    statistics: Sequence[Statistic],
    resources: Resources,
    scheduler: Scheduler,
    progress: Progress,
) -> dict[str, xr.Dataset]:
    reader = CellReader(run, chosen)
    context = Context(run, chosen, {sequence: reader.positions(sequence) for sequence in chosen.sequences})
    partials, excluded = _one_pass(run, chosen, statistics, resources, scheduler, progress)
    follow = [s.follow(held, context) for s, held in zip(statistics, partials, strict=True)]
    second = [statistic for statistic in follow if statistic is not None]
    if second:
        more, _ = _one_pass(run, chosen, second, resources, scheduler, progress)
        later = iter(zip(second, more, strict=True))
    results = {}
    for statistic, held, again in zip(statistics, partials, follow, strict=True):
        final, kept = (statistic, held) if again is None else next(later)
        results[statistic.name] = dataset = final.finalize(kept, context)
        dataset.attrs["definition"] = json.dumps(statistic.definition, default=str)
        dataset.attrs["excluded"] = [f"{e.site}, layer {e.layer}, sequence {e.sequence}" for e in excluded]
    return results


def _one_pass(
    run: Run,
    chosen: Chosen,
    statistics: Sequence[Statistic],
    resources: Resources,
    scheduler: Scheduler,
    progress: Progress,
) -> tuple[tuple[dict[Key, Partial], ...], tuple[Excluded, ...]]:
    plan = prepare(run, chosen, statistics, resources, scheduler)
    made = Pass(run, plan, statistics, scheduler, resources.skip_corrupt)
    what = ", ".join(dict.fromkeys(re.sub("[-_]", " ", statistic.name) for statistic in statistics))
    found = [found for _, found in made.by_sequence(progress, f"slices for {what}")]
    total = merged(statistics, [*found, made.rest])
    return total.partials, total.excluded


def _require(run: Run, chosen: Chosen, statistic: Reduction) -> None:
    """Raise where the store lacks what the statistic reads."""
    for array in chosen.arrays:
        for pattern in statistic.needs:
            name = pattern.format(array=array)
            if name not in run:
                raise StoreError(f"{statistic.name} reads the array {name!r}, which {run.path} has not")
    statistic.check(run, chosen)


def _require_values(run: Run, statistic: Reduction, least_gain: Fraction | None) -> None:
    """Raise StoreError where the statistic needs values that the store's slices do not keep.

    In units of gain, a magnitude is that many times the gain: of the smallest one the least value.
    """
    floor, least = run.retention.floor, statistic.least_magnitude
    if floor is None:
        return
    asked = "all values" if least is None else f"values from {decimal_text(least)} on"
    if least is not None and least_gain is not None:
        least *= least_gain
        asked += f" in units of a gain of {float(least_gain):.6g}, which are {float(least):.6g},"
    if least is None or not run.retention.keeps(least, run.encoding):
        raise StoreError(
            f"{statistic.name} needs {asked.removesuffix(',')}, and {run.path} was captured with --keep floor={floor}: "
            "its slices are zero below that. Capture the model again with --keep slices"
        )
