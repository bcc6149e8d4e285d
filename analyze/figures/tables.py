"""The tables beside the figures, from the same overview."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence

from analyze.figures.captions import definition_sentence, looked_at, stores_sentences
from analyze.figures.texts import shortened
from analyze.overviews.results import Absent, Overview, QuantisationView, StoreView
from analyze.tables.table import Field, Table, Value, percent, shown

__all__ = ["overview_tables"]

_CELLS = {"Model": False, "Routing": False, "Precision": False}
"""Headings of model columns whose cells are words."""
_NUMBERS = {
    "Total": ("total_parameters",),
    "Active": ("active_parameters",),
    "Experts": ("experts", "shared_experts"),
    "Top-k": ("top_k",),
}
"""Of model columns that a person reads in words, what a program reads."""
_LISTED = 35
"""Features that a page of a paper holds with their caption."""


def overview_tables(overview: Overview) -> list[Table]:
    """Counts at every magnitude (for people at the chosen one), features, and quantisation errors where known."""
    found = [_counts(overview), _features(overview)]
    known = [(store, store.quantisation) for store in overview.stores if not isinstance(store.quantisation, Absent)]
    return [*found, _quantisation(known)] if known else found


def _one(value: Value) -> str:
    return f"{value:.1f}" if isinstance(value, float) else shown(value)


def _counts(overview: Overview) -> Table:
    asked = overview.asked
    at = asked.magnitudes[asked.chosen]
    headings = [name for name in overview.stores[0].facts.model_words if name != "Model"]
    fields = (
        Field("model", "Model", right=False),
        *(Field(_name(name), name, right=_CELLS.get(name, True), programs=name not in _NUMBERS) for name in headings),
        *(Field(number, "", hidden=True) for name in headings for number in _NUMBERS.get(name, ())),
        Field("magnitude", "Magnitude", hidden=True),
        Field("outliers", "Outliers"),
        Field("unique_features", "Unique features"),
        Field("outliers_per_sequence", "Per sequence", _one),
        Field("outliers_per_sequence_low", "", hidden=True),
        Field("outliers_per_sequence_high", "", hidden=True),
        Field("interval", "[95%]", right=False, programs=False),
        Field("mean_layer_percent", "Mean L%", percent),
        Field("mean_position_percent", "Mean S%", percent),
    )
    rows: list[tuple[Value, ...]] = []
    chosen = []
    for store in overview.stores:
        for place, point in enumerate(store.sweep):
            low, high = point.interval or (None, None)
            row: tuple[Value, ...] = (
                store.facts.label,
                *(store.facts.model_words[name] for name in headings),
                *(store.facts.model[number] for name in headings for number in _NUMBERS.get(name, ())),
                *(point.magnitude, point.outliers, point.unique_features, point.outliers_per_sequence),
                *(low, high, "-" if low is None else f"[{low:.1f}, {high:.1f}]"),
                *(point.mean_layer_percent, point.mean_position_percent),
            )
            rows.append(row)
            if place == asked.chosen:
                chosen.append(row)
    return Table(
        "counts",
        f"Outliers at magnitude {at}",
        fields,
        tuple(rows),
        tuple(dict.fromkeys(note.replace("the row's magnitude", at) for note in (*asked.notes, *overview.notes))),
        for_people=tuple(chosen),
    )


def _name(heading: str) -> str:
    return heading.lower().replace("-", "_").replace(" ", "_").replace("%", "percent")


def _features(overview: Overview) -> Table:
    fields = (
        Field("model", "Model", right=False),
        Field("feature", "Feature", str),
        Field("counted", "Counted", right=False),
        Field("critical_magnitude", "Critical magnitude"),
        Field("peak", "Peak"),
        Field("peak_site", "Peak at site", right=False),
        Field("peak_layer", "Layer"),
        Field("peak_sequence", "Sequence"),
        Field("peak_position", "Position"),
        Field("peak_token", "Token", _token, right=False),
    )
    rows = [_feature(store, place) for store in overview.stores for place in range(len(store.features))]
    few = max(3, _LISTED // len(overview.stores))
    listed = [_feature(store, place) for store in overview.stores for place in range(min(few, len(store.features)))]
    return Table(
        "features",
        "Features looked at closely",
        fields,
        tuple(rows),
        (
            definition_sentence(overview),
            "Counted: at some magnitude asked; the others meet lesser shares. Critical magnitude: the largest at which "
            "the feature still counts. Peak: its largest magnitude, where it is and at which token.",
            *([] if len(listed) == len(rows) else [f"The first {few} of each model; the file of values has all."]),
            *stores_sentences([store.facts for store in overview.stores]),
        ),
        for_people=tuple(listed),
    )


def _token(text: Value) -> str:
    """Its blanks made visible."""
    return shown(text) if text is None else shortened(str(text), 16).replace(" ", "\u2423")


def _feature(store: StoreView, place: int) -> tuple[Value, ...]:
    feature = store.features[place]
    _, site, layer = max((peak, -s, -i) for s, peaks in enumerate(feature.layer_peak) for i, peak in enumerate(peaks))
    first = feature.positions[0] if feature.positions else None
    return (
        *(store.facts.label, feature.feature, feature.counted, feature.critical_magnitude, feature.peak),
        *(store.facts.sites[-site], store.facts.layers[-layer]),
        *((None, None, None) if first is None else (first.sequence, first.position, first.text)),
    )


def _quantisation(known: Sequence[tuple[StoreView, QuantisationView]]) -> Table:
    fields = (
        Field("model", "Model", right=False),
        Field("format", "Format", right=False),
        Field("site", "Site", right=False),
        Field("layer", "Layer"),
        Field("sqnr_db", "SQNR, dB", _one),
        Field("relative_error_percent", "Relative error", percent),
    )
    rows: list[tuple[Value, ...]] = [
        (store.facts.label, form, site, layer, view.sqnr_db[f][s][i], _percent(view.relative_error[f][s][i]))
        for store, view in known
        for f, form in enumerate(view.formats)
        for s, site in enumerate(view.sites)
        for i, layer in enumerate(view.layers)
    ]
    middle = [
        (*rows[at][:3], f"median of {size}", _median(rows[at : at + size], 4), _median(rows[at : at + size], 5))
        for at, size in _groups(rows)
    ]
    return Table(
        "quantisation",
        "Errors of the activations under each format, medians over layers",
        fields,
        tuple(rows),
        (
            "SQNR: signal to quantisation noise; relative error: mean absolute error over mean magnitude; of all "
            "positions. The error at that tensor: nothing is propagated, and it is not perplexity.",
            *stores_sentences([store.facts for store, _ in known], looked_at),
        ),
        for_people=tuple(middle),
    )


def _groups(rows: Sequence[tuple[Value, ...]]) -> Iterator[tuple[int, int]]:
    """(start, length) of each run of rows that differ in their layer alone."""
    at = 0
    for _, group in itertools.groupby(rows, key=lambda row: row[:3]):
        size = len(list(group))
        yield at, size
        at += size


def _median(rows: Sequence[tuple[Value, ...]], place: int) -> float | None:
    known = [float(value) for row in rows if (value := row[place]) is not None]
    return statistics.median(known) if known else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
