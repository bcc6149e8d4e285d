"""Results as CSV for programs: plain numbers, the same columns whatever was asked, always a header."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Sequence

from analyze.quantities import decimal_text
from analyze.tables.names import model_name
from analyze.tables.table import Table, union_of_fields
from analyze.thresholds.question import knob_record
from analyze.thresholds.results import Feature, Result

__all__ = ["render", "render_tables"]

Plain = str | int | float | bool | None

PLAIN_COLUMNS: tuple[tuple[str, Callable[[Result], Plain]], ...] = (
    ("store", lambda r: r.store),
    ("model", lambda r: model_name(r.info)),
    ("total_parameters", lambda r: r.info.model.total_parameters),
    ("active_parameters", lambda r: r.info.model.active_parameters),
    ("experts", lambda r: r.info.model.experts),
    ("shared_experts", lambda r: r.info.model.shared_experts),
    ("top_k", lambda r: r.info.model.top_k),
    ("routing", lambda r: r.info.model.routing),
    ("definition", lambda r: r.plan.question.definition.preset),
    ("magnitude", lambda r: decimal_text(r.magnitude)),
    ("layers", lambda r: r.plan.question.layers.text),
    ("positions", lambda r: r.plan.question.positions.text),
    ("sites", lambda r: " ".join(r.plan.sites)),
    ("unit", lambda r: r.plan.question.definition.unit),
    ("layer_unit", lambda r: r.plan.question.definition.layer_unit),
    ("scope", lambda r: r.plan.question.definition.scope),
    ("position_coverage", lambda r: r.plan.question.definition.position_coverage),
    ("minimum_hits", lambda r: r.plan.question.definition.minimum_hits.text),
    ("layers_range", lambda r: knob_record(r.plan.question)["layers_range"]),
    ("positions_range", lambda r: knob_record(r.plan.question)["positions_range"]),
    ("tokens", lambda r: r.plan.question.tokens),
    ("in_gain_units", lambda r: r.plan.question.in_gain_units),
    ("layers_total", lambda r: r.plan.layers_total),
    ("layers_needed", lambda r: r.plan.layers_needed),
    ("positions_total", lambda r: r.plan.positions_total),
    ("positions_needed", lambda r: r.plan.positions_at_least),
    ("sequences_needed", lambda r: r.plan.sequences_needed),
    ("sequences", lambda r: len(r.plan.sequences)),
    ("sequences_in_store", lambda r: r.plan.dimensions.sequences),
    ("partial", lambda r: r.plan.partial),
    ("answered_from", lambda r: r.plan.answered_from),
    ("outliers", lambda r: r.outliers),
    ("unique_features", lambda r: r.unique_features),
    ("outliers_per_sequence", lambda r: r.outliers_per_sequence),
    ("outliers_per_sequence_low", lambda r: None if r.interval is None else r.interval[0]),
    ("outliers_per_sequence_high", lambda r: None if r.interval is None else r.interval[1]),
    ("mean_layer_percent", lambda r: r.mean_layer_percent),
    ("mean_position_percent", lambda r: r.mean_position_percent),
    ("nonfinite_values", lambda r: r.nonfinite),
    ("excluded_cells", lambda r: len(r.excluded)),
    ("native_dtype", lambda r: r.info.model.native_dtype),
    ("compute_dtype", lambda r: r.info.model.compute_dtype),
    ("stored_dtype", lambda r: r.info.bits),
    ("token_sha256", lambda r: r.info.corpus.token_sha256),
    ("perplexity", lambda r: r.perplexity.value),
    ("nonfinite_losses", lambda r: r.perplexity.nonfinite_losses),
    ("total_hits", lambda r: None if r.detail is None else int(r.detail.hits.sum())),
    ("ties", lambda r: r.ties),
    ("one_sided_units", lambda r: None if r.detail is None else int(r.detail.one_sided.sum())),
    ("most_common_feature", lambda r: None if r.detail is None else r.detail.most_common),
    ("most_common_feature_hits", lambda r: None if r.detail is None else r.detail.most_common_hits),
    ("quartile_1", lambda r: None if r.detail is None or r.detail.quartiles is None else r.detail.quartiles.first),
    ("quartile_2", lambda r: None if r.detail is None or r.detail.quartiles is None else r.detail.quartiles.median),
    ("quartile_3", lambda r: None if r.detail is None or r.detail.quartiles is None else r.detail.quartiles.third),
)
"""Names and values of a CSV row: whatever the question, all of them, so that files can be put together."""


def render(results: Sequence[Result], limit: int | None) -> Iterator[str]:
    """A row per result; with a number of features, a row per counted feature instead."""
    fields = [field.name for field in dataclasses.fields(Feature)]
    yield _csv_row([*(name for name, _ in PLAIN_COLUMNS), *(fields if limit is not None else ())])
    for result in results:
        own = [_plain(value(result)) for _, value in PLAIN_COLUMNS]
        if limit is None:
            yield _csv_row(own)
            continue
        for feature in result.features(limit):
            yield _csv_row([*own, *(_plain(value) for value in dataclasses.astuple(feature))])


def render_tables(tables: Sequence[Table]) -> Iterator[str]:
    """A row for each row of each table under one header, of several with the table's name first; no notes."""
    names = union_of_fields(tables)
    several = len(tables) > 1
    yield _csv_row([*(["table"] if several else []), *names])
    for table in tables:
        for record in table.records():
            own = [_plain(record.get(name)) for name in names]
            yield _csv_row([*([table.name] if several else []), *own])


def _csv_row(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _plain(value: Plain) -> str:
    """A value as a CSV cell that reads back as the same number; nothing for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
