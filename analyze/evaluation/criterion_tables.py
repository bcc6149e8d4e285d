"""Tables of evaluated criteria: a row for each tensor, or for each of its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.criteria import load_criterion
from analyze.evaluation.evaluate import evaluate_criteria
from analyze.evaluation.exceedance_tables import exceedance_table
from analyze.evaluation.exceedances import exceedances_by
from analyze.evaluation.part_of_store import PartOfStore, alike, in_units_of_gain
from analyze.opened import opened
from analyze.progress import Progress, silent_progress
from analyze.quantities import counted
from analyze.tables.names import model_labels
from analyze.tables.table import Field, Table, Value, plain
from analyze.tables.wording import NOT_LOOKED_AT
from analyze.thresholds.question import site_names
from schemas.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from analyze.evaluation.criterion import Criterion, Quantity
    from analyze.thresholds.asking import AnyRun

__all__ = ["asked_tables", "criterion_table", "criterion_tables"]

_LISTED = 6
"""Flagged features that people are shown of a row; programs get all."""


def asked_tables(
    stores: Sequence[AnyRun],
    *,
    criteria: str | None = None,
    by: str | None = None,
    magnitude: str = "6",
    positions: str = "6%",
    minimum_hits: str | int = "1",
    layer_unit: str = "cell",
    sites: str | None = None,
    partial: bool = False,
    layers_range: str | None = None,
    positions_range: str | None = None,
    tokens: str = "all",
    in_gain_units: bool = False,
    progress: Progress = silent_progress,
    **options: Any,
) -> list[Table]:
    """The tables of criteria, of hits ``by`` layer, position or expert, or of criteria by layer, a store after another.

    The words are those of the command line, ``options`` those of ``measure``.
    Raises what ``evaluate_criteria`` and ``exceedances_by`` raise.
    """
    if criteria is not None and by not in (None, "layer"):
        raise InputError(f"--criteria are evaluated by layer, not by {by}: leave out --criteria, or write --by layer")
    part = PartOfStore(layers_range, positions_range, tokens)
    tables: list[Table] = []
    runs = [opened(store) for store in stores]
    names = model_labels([run.info for run in runs], [run.path for run in runs])
    named_sites = None if sites is None else site_names(sites)
    selections = [part.selection(run, named_sites, partial, in_gain_units) for run in runs]
    for run, name, selection in zip(runs, names, selections, strict=True):
        if criteria is None:
            rule: dict[str, Any] = {"positions": positions, "minimum_hits": minimum_hits, "layer_unit": layer_unit}
            found = exceedances_by(run, by or "layer", magnitude, selection, **rule, progress=progress, **options)
            tables.append(part.told(exceedance_table(found.assign_attrs(label=name))))
        else:
            answer = evaluate_criteria(run, criteria, selection, progress=progress, **options)
            labelled = {criterion: found.assign_attrs(label=name) for criterion, found in answer.items()}
            own = criterion_tables(labelled, by_layer=by == "layer")
            tables += [part.told(in_units_of_gain(table) if in_gain_units else table) for table in own]
    return alike(tables, runs, selections, names)


def criterion_tables(answers: Mapping[str, xr.Dataset], *, by_layer: bool = False) -> list[Table]:
    """A table for each answer of ``evaluate_criteria``, in their order; the last says which are absent and why."""
    tables = [criterion_table(answer, by_layer=by_layer) for answer in answers.values()]
    absent = tuple(line if line.endswith(".") else f"{line}." for line in list(answers.values())[-1].attrs["absent"])
    return [*tables[:-1], dataclasses.replace(tables[-1], notes=(*tables[-1].notes, *absent))]


def criterion_table(answer: xr.Dataset, *, by_layer: bool = False) -> Table:
    """The table of one criterion's answer: a row for each tensor, or with ``by_layer`` for each of its layers."""
    criterion = load_criterion(answer.attrs["criterion"])
    tensors = answer.tensor.values.tolist() if "tensor" in answer.dims else [None]
    rows: list[tuple[Value, ...]] = []
    for tensor in tensors:
        own = answer if tensor is None else answer.sel(tensor=tensor)
        start = (answer.attrs["store"], answer.attrs["model"], "expert outputs" if tensor is None else tensor)
        if by_layer:
            for layer in own.layer.values.tolist():
                rows.append((*start, layer, *_of_layer(criterion, own.sel(layer=layer))))
        else:
            rows.append((*start, *_of_all_layers(criterion, own)))
    return Table(
        name=criterion.name,
        title=f"{criterion.title}: {_label(answer)}",
        fields=_fields(criterion, by_layer),
        rows=tuple(rows),
        notes=_notes(answer),
        about=_about(answer),
    )


def _label(answer: xr.Dataset) -> str:
    """What its run is called among others."""
    return str(answer.attrs.get("label", answer.attrs["model"]))


def _distinct(criterion: Criterion) -> dict[str, Quantity]:
    """Quantities by variable, each once: what is shown of a layer."""
    found: dict[str, Quantity] = {}
    for quantity in criterion.quantities:
        found.setdefault(quantity.name, quantity)
    return found


def _fields(criterion: Criterion, by_layer: bool) -> tuple[Field, ...]:
    fields = [
        Field("store", "Store", right=False, hidden=True),
        Field("model", "Model", right=False, hidden=True),
        Field("tensor", "Tensor", right=False),
    ]
    if by_layer:
        fields.append(Field("layer", "Layer"))
        fields += [Field(name, quantity.heading) for name, quantity in _distinct(criterion).items()]
    else:
        for quantity in criterion.quantities:
            name = f"{quantity.over_layers}_{quantity.name.removeprefix(quantity.over_layers)}".rstrip("_")
            fields.append(Field(name, quantity.heading))
            if quantity.where:
                fields.append(Field(f"{name}_layer", "at layer"))
    if criterion.outliers is not None:
        fields.append(Field(criterion.flagged, criterion.flagged.capitalize(), right=False, text=_few))
    return tuple(fields)


def _few(listed: Value) -> str:
    """The first of the space-separated names in ``listed``, and how many more there are."""
    names = str(listed).split()
    if not names:
        return "-"
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _of_layer(criterion: Criterion, answer: xr.Dataset) -> list[Value]:
    values = [plain(answer[name].values[()]) for name in _distinct(criterion)]
    if criterion.outliers is not None:
        values.append(" ".join(map(str, np.flatnonzero(answer[criterion.outliers].values).tolist())))
    return values


def _of_all_layers(criterion: Criterion, answer: xr.Dataset) -> list[Value]:
    values: list[Value] = []
    for quantity in criterion.quantities:
        by_layer = answer[quantity.name].values
        values.append(_summary(by_layer, quantity))
        if quantity.where:
            known = ~np.isnan(by_layer)
            place = int(np.where(known, by_layer, -np.inf).argmax())
            values.append(int(answer.layer.values[place]) if known.any() else None)
    if criterion.outliers is not None:
        values.append(" ".join(_flagged(answer, criterion.outliers)))
    return values


def _summary(by_layer: Any, quantity: Quantity) -> Value:
    known = by_layer[~np.isnan(by_layer)]
    if quantity.over_layers == "sum":
        return plain(by_layer.sum())
    if not known.size:
        return None
    return plain(known.mean() if quantity.over_layers == "mean" else known.max())


def _flagged(answer: xr.Dataset, mask: str) -> list[str]:
    """What is flagged in any layer: features by number of layers, descending; experts as LAYER:EXPERT."""
    held = answer[mask]
    if "expert" in held.dims:
        return [f"{answer.layer.values[i]}:{expert}" for i, expert in np.argwhere(held.values)]
    layers = held.sum("layer").values
    order = np.argsort(-layers, kind="stable")
    return [str(feature) for feature in order[: np.count_nonzero(layers)]]


def _notes(answer: xr.Dataset) -> tuple[str, ...]:
    attributes = answer.attrs
    notes = [f"{attributes['title']}, {attributes['source']}: {attributes['formula']}."]
    if attributes["nonfinite"]:
        notes.append(
            f"{_label(answer)}: {counted(attributes['nonfinite'], 'value')} NaN or infinite: left out of means, "
            "spreads and medians; a NaN passes no threshold."
        )
    if "tensor" in answer.dims and answer.approximate.values.any():
        recovered = ", ".join(answer.tensor.values[answer.approximate.values].tolist())
        notes.append(
            f"Approximate: {recovered}, recovered from the norm's output, gain and statistics, which are rounded."
        )
    notes += [f"{line[0].upper()}{line[1:]}." for line in attributes["left_out"]]
    if excluded := attributes.get("excluded"):
        notes += [*(f"Left out as corrupt: {line}." for line in excluded), f"What is left out is {NOT_LOOKED_AT}."]
    return tuple(notes)


def _about(answer: xr.Dataset) -> dict[str, Any]:
    attributes = answer.attrs
    about = {name: attributes[name] for name in ("store", "model", "formula", "source", "left_out", "nonfinite")}
    if "tensor" in answer.dims:
        about["tensors"] = [
            {"tensor": label, "kind": kind, "approximate": approximate}
            for label, kind, approximate in zip(
                answer.tensor.values.tolist(),
                answer.kind.values.tolist(),
                answer.approximate.values.tolist(),
                strict=True,
            )
        ]
    about["absent"] = attributes["absent"]
    about["excluded"] = list(attributes.get("excluded", []))
    about["excluded_as"] = NOT_LOOKED_AT if about["excluded"] else None
    return about
