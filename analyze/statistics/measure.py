"""One pass over the slices for any number of statistics, on Dask."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dask
from dask.delayed import delayed

from analyze.progress import Progress, silent_progress
from analyze.quantities import decimal_text
from analyze.statistics.cells import CellReader
from analyze.statistics.selection import EVERYTHING, Chosen, Selection, choose
from analyze.statistics.statistic import Context, Statistic
from analyze.statistics.work import Block, Found, merge, work
from schemas.errors import StoreError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["measure"]

_BLOCK_BYTES = 64 * 2**20
"""Decoded bytes of the cells that one task reads, one after another."""


def measure(
    run: Run,
    statistics: Sequence[Statistic],
    selection: Selection = EVERYTHING,
    *,
    progress: Progress = silent_progress,
    skip_corrupt: bool = False,
) -> dict[str, xr.Dataset]:
    """The result of each statistic, by its name: what its own docstring says, of the selected part of ``run``.

    Raises InputError or StoreError for what cannot be measured, CorruptChunkError naming a chunk that fails its
    checksum; with ``skip_corrupt`` such a cell of a sequence is left out, and each result's attribute ``excluded``
    lists those.
    """
    chosen = choose(run, selection)
    for statistic in statistics:
        _require(run, chosen, statistic)
    total = Found(tuple({} for _ in statistics), ())
    for _, found in _by_sequence(run, chosen, statistics, progress, skip_corrupt):
        total = merge(statistics, total, found)
    reader = CellReader(run, chosen)
    context = Context(run, chosen, {sequence: reader.positions(sequence) for sequence in chosen.sequences})
    results = {}
    for statistic, partials in zip(statistics, total.partials, strict=True):
        results[statistic.name] = dataset = statistic.finalize(partials, context)
        dataset.attrs["definition"] = json.dumps(statistic.definition, default=str)
        dataset.attrs["excluded"] = [f"{e.site}, layer {e.layer}, sequence {e.sequence}" for e in total.excluded]
    return results


def _require(run: Run, chosen: Chosen, statistic: Statistic) -> None:
    """Raise where the store lacks what the statistic reads."""
    for array in chosen.arrays:
        for pattern in statistic.needs:
            name = pattern.format(array=array)
            if name not in run:
                raise StoreError(f"{statistic.name} reads the array {name!r}, which {run.path} has not")
    floor, least = run.retention.floor, statistic.least_magnitude
    if floor is not None and (least is None or least < type(least)(floor)):
        asked = "all values" if least is None else f"values from {decimal_text(least)} on"
        raise StoreError(
            f"{statistic.name} needs {asked}, and {run.path} was captured with --keep floor={floor}: its slices are "
            "zero below that. Capture the model again with --keep slices"
        )
    statistic.check(run, chosen)


def _blocks(run: Run, chosen: Chosen, sequence: int) -> list[Block]:
    d = run.dimensions
    cells = [(s, a, layer) for s, a in zip(chosen.sites, chosen.arrays, strict=True) for layer in chosen.layers]
    size = max(1, _BLOCK_BYTES // (d.positions * d.features * run.encoding.itemsize))
    return [Block(sequence, tuple(cells[i : i + size])) for i in range(0, len(cells), size)]


def _by_sequence(
    run: Run, chosen: Chosen, statistics: Sequence[Statistic], progress: Progress, skip_corrupt: bool
) -> Iterator[tuple[int, Found]]:
    for sequence in progress(chosen.sequences, "slices"):
        tasks = [
            delayed(work)(run.path, "", chosen, tuple(statistics), block, skip_corrupt)
            for block in _blocks(run, chosen, sequence)
        ]
        found = dask.compute(*tasks, scheduler="threads")
        whole = found[0]
        for more in found[1:]:
            whole = merge(statistics, whole, more)
        yield sequence, whole
