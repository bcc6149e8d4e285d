"""An overview in short, as tables: what a notebook shows of it."""

from __future__ import annotations

import dataclasses

from analyze.overviews.results import Absent, Overview, StoreView
from analyze.quantities import counted
from analyze.tables.sparkline import sparkline
from analyze.tables.table import Field, Table, Value, percent

__all__ = ["overview_tables"]

_FEATURES = 10


def overview_tables(overview: Overview) -> list[Table]:
    """Counts at the magnitude looked at first, with those at all as bars; the first features; what is not there."""
    found = [_counts(overview), _features(overview), _absent(overview)]
    return [table for table in found if table.rows]


def _named(stores: tuple[StoreView, ...], what: str) -> str:
    return f"{stores[0].facts.label}{what}" if len(stores) == 1 else f"{len(stores)} models{what}"


def _counts(overview: Overview) -> Table:
    asked, stores = overview.asked, overview.stores
    first, last = asked.magnitudes[0], asked.magnitudes[-1]
    fields = (
        Field("model", "Model", right=False),
        Field("outliers", "Outliers"),
        Field("unique_features", "Unique features"),
        Field("per_sequence", "Per sequence [95%]"),
        Field("mean_layer_percent", "Mean L%", percent),
        Field("mean_position_percent", "Mean S%", percent),
        Field("counts", f"Outliers from {first} to {last}", right=False, hidden=first == last),
        Field("answered_from", "Answered from", right=False),
    )
    rows = []
    for store in stores:
        point = store.sweep[asked.chosen]
        each = f"{point.outliers_per_sequence:,.1f}"
        if point.interval is not None:
            each += " [{:,.1f}, {:,.1f}]".format(*point.interval)
        row: tuple[Value, ...] = (
            store.facts.label,
            point.outliers,
            point.unique_features,
            each,
            point.mean_layer_percent,
            point.mean_position_percent,
            sparkline([one.outliers for one in store.sweep]),
            store.facts.answered_from,
        )
        rows.append(row)
    notes = (
        f"Looked at first: {asked.chosen_because}, of {counted(len(asked.magnitudes), 'magnitude')}. "
        "Bars: their heights are logarithmic.",
        *asked.notes,
        "plot_overview(...) draws it as figures; analyze --report FILE makes it a page.",
    )
    title = _named(stores, f" at magnitude {asked.magnitudes[asked.chosen]}")
    return Table("counts", title, fields, tuple(rows), notes)


def _features(overview: Overview) -> Table:
    stores = overview.stores
    fields = (
        Field("model", "Model", right=False, hidden=len(stores) == 1),
        Field("feature", "Feature", str),
        Field("critical_magnitude", "Critical magnitude"),
        Field("peak", "Peak"),
        Field("where", "Largest at", right=False),
        Field("token", "Token there", right=False),
    )
    rows: list[tuple[Value, ...]] = []
    for store in stores:
        for view in store.features[: max(1, _FEATURES // len(stores))]:
            largest = view.positions[0] if view.positions else None
            cells = [
                (peak, -layer, site)
                for site, peaks in zip(store.facts.sites, view.layer_peak, strict=True)
                for layer, peak in zip(store.facts.layers, peaks, strict=True)
            ]
            _, layer, site = max(cells)
            where = f"{site} of layer {-layer}"
            if largest is not None:
                where += f", sequence {largest.sequence}, position {largest.position}"
            token = None if largest is None or largest.text is None else repr(largest.text)
            rows.append((store.facts.label, view.feature, view.critical_magnitude, view.peak, where, token))
    held = sum(len(store.features) for store in stores)
    title = f"The first {len(rows)} of {counted(held, 'feature')} looked at closely"
    return Table("features", title, fields, tuple(rows))


def _absent(overview: Overview) -> Table:
    """Every section that is not there, each reason once."""
    stores = overview.stores
    found: dict[tuple[str, str], list[str]] = {}
    for store in stores:
        for field in dataclasses.fields(store):
            view = getattr(store, field.name)
            if isinstance(view, Absent):
                found.setdefault((store.facts.label, view.absent), []).append(field.name)
    if isinstance(overview.emergence, Absent) and len(stores) > 1:
        found["all", overview.emergence.absent] = ["emergence"]
    fields = (
        Field("model", "Model", right=False, hidden=len(stores) == 1),
        Field("sections", "Sections", right=False),
        Field("why", "Why", right=False),
    )
    rows = tuple((label, ", ".join(names), why) for (label, why), names in found.items())
    return Table("absent", "Not shown", fields, rows)
