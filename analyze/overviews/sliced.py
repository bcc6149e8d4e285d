"""Views that only the slices give: curves by layer, hits by position, quantisation errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from analyze.evaluation.evaluate import evaluate_criteria
from analyze.evaluation.exceedance_tables import bin_names, position_bins
from analyze.evaluation.exceedances import exceedances_by
from analyze.overviews.results import Absent, Curves, PositionProfile, QuantisationView, TableView
from analyze.progress import Progress
from analyze.quantisation.answer import quantisation_errors
from analyze.quantisation.table import quantisation_tables
from analyze.quantities import decimal_text
from analyze.resources import Resources
from analyze.statistics.selection import Selection
from analyze.tables.table import Table
from analyze.thresholds.plan import Plan
from schemas.errors import CorruptChunkError, InputError, StoreError
from schemas.run import Run

__all__ = [
    "absence",
    "because",
    "curves",
    "kept_magnitudes",
    "part_of",
    "position_profile",
    "quantisation_view",
    "require_floor",
    "require_slices",
    "table_view",
    "unless_absent",
]

View = TypeVar("View")
Grid = tuple[tuple[float | None, ...], ...]


def unless_absent(view: Callable[[], View]) -> View | Absent:
    """What ``view`` gives, or why the store cannot; damage is raised."""
    try:
        return view()
    except CorruptChunkError:
        raise
    except InputError as error:
        return absence(error)


class NotAskedError(InputError):
    """What the question left out, whatever the store holds."""


def absence(error: InputError) -> Absent:
    """Why a view is not there: the store has not what it takes, or the question leaves it out."""
    kind = "Not asked" if isinstance(error, NotAskedError) else "Not in this store"
    return Absent(because(error), kind if isinstance(error, NotAskedError | StoreError) else "Not answered")


def because(error: InputError) -> str:
    """An error as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def require_slices(run: Run, plan: Plan) -> None:
    """Raise where the slices are not to be read, or there are none."""
    if not run.retention.slices:
        raise StoreError(f"{run.path} holds peaks only: capture the model again with --keep slices")
    if plan.question.engine == "peaks":
        raise NotAskedError("it takes a pass over the slices, and --engine peaks reads the stored peaks alone")


def require_floor(run: Run, magnitudes: tuple[Fraction, ...]) -> None:
    """Raise where the slices do not keep the hits of any of the magnitudes."""
    if not kept_magnitudes(run, magnitudes):
        raise StoreError(
            f"{run.path} was captured with --keep floor={run.retention.floor}: its slices are zero below that"
        )


def kept_magnitudes(run: Run, magnitudes: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Those at which the slices keep all hits."""
    return tuple(m for m in magnitudes if m > 0 and run.retention.keeps(m, run.encoding))


def part_of(plan: Plan) -> Selection:
    """What the plan looks at, as statistics are asked for it."""
    chosen = plan.chosen
    return Selection(
        sites=plan.sites,
        layers=chosen.layers,
        positions=(chosen.start, chosen.stop),
        tokens=chosen.tokens,
        in_gain_units=chosen.in_gain_units,
        partial=plan.question.partial,
    )


def curves(run: Run, plan: Plan, progress: Progress, resources: Resources) -> Curves:
    """The curves by layer; raises StoreError where the store does not keep all values."""
    require_slices(run, plan)
    part = dataclasses.replace(part_of(plan), in_gain_units=False)
    found = evaluate_criteria(run, "top-values,kurtosis,max-median", part, progress=progress, **resources.options())
    top, kurtosis, ratio = found["top-values"], found["kurtosis"], found["max-median"]
    return Curves(
        tensors=tuple(map(str, top.tensor.values.tolist())),
        layers=tuple(top.layer.values.tolist()),
        top=tuple(_grid(top[name].values) for name in ("first", "second", "third")),
        median=_grid(top["middle"].values),
        kurtosis=_grid(kurtosis.kurtosis.values),
        max_median=_grid(ratio.ratio.values),
        formulas={name: answer.attrs["formula"] for name, answer in found.items()},
        left_out=tuple(dict.fromkeys(line for answer in found.values() for line in answer.attrs["left_out"])),
    )


def position_profile(run: Run, plan: Plan, progress: Progress, resources: Resources) -> PositionProfile:
    """Hits by position at the magnitudes that the slices answer; raises StoreError where they answer none."""
    require_slices(run, plan)
    require_floor(run, plan.question.magnitudes)
    magnitudes = tuple(decimal_text(m) for m in kept_magnitudes(run, plan.question.magnitudes))
    found = exceedances_by(
        run, "position", ",".join(magnitudes), part_of(plan), progress=progress, **resources.options()
    )
    bins = position_bins(found.sizes["position"])
    hits, rows = found.hits.sum("layer"), found.rows.isel(layer=0, site=0).values

    def binned(values: npt.NDArray[Any]) -> tuple[int, ...]:
        return tuple(int(values[b.start : b.stop].sum()) for b in bins)

    sites = tuple(map(str, found.site.values.tolist()))
    return PositionProfile(
        sites=sites,
        magnitudes=magnitudes,
        bins=bin_names(bins),
        tokens=binned(rows),
        values_per_token=found.sizes["layer"] * run.dimensions.features,
        hits=tuple(
            tuple(binned(hits.isel(magnitude=m).sel(site=site).values) for m in range(len(magnitudes)))
            for site in sites
        ),
    )


def quantisation_view(run: Run, plan: Plan, label: str, progress: Progress, resources: Resources) -> QuantisationView:
    """The errors of every format, with its tables; raises StoreError where the store does not keep all values."""
    require_slices(run, plan)
    part = dataclasses.replace(part_of(plan), in_gain_units=False)
    found = quantisation_errors(run, "all", part, progress=progress, **resources.options())
    everywhere = found.sel(positions=found.positions.values[0])
    return QuantisationView(
        formats=tuple(map(str, found.format.values.tolist())),
        sites=tuple(map(str, found.site.values.tolist())),
        layers=tuple(found.layer.values.tolist()),
        sqnr_db=tuple(_grid(rows) for rows in everywhere.sqnr_db.values),
        relative_error=tuple(_grid(rows) for rows in everywhere.relative_error.values),
        tables=tuple(table_view(table) for table in quantisation_tables(found, label, for_programs=False)),
    )


def table_view(table: Table) -> TableView:
    """A table as people read it."""
    columns = table.columns()
    return TableView(
        name=table.name,
        title=table.title,
        headings=tuple(column.heading for column in columns),
        right=tuple(column.right for column in columns),
        cells=tuple(tuple(row) for row in table.cells()),
        notes=table.notes,
    )


def _grid(values: npt.NDArray[Any]) -> Grid:
    """(a, b) as tuples; None for NaN."""
    return tuple(
        tuple(None if math.isnan(value) else value for value in row) for row in np.asarray(values, np.float64).tolist()
    )
