"""Results as strict JSON, in the shape that docs/results.md describes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analyze.quantities import decimal_text
from analyze.tables.likeness import comparison_notes
from analyze.tables.names import compared
from analyze.tables.table import Table
from analyze.tables.wording import AS_WITHOUT_HITS, definition_words
from analyze.thresholds.bootstrap import RESAMPLES, SEED
from analyze.thresholds.question import knob_record
from analyze.thresholds.results import Feature, Result

__all__ = ["json_value", "render", "render_tables"]


def render(results: Sequence[Result], limit: int | None = None) -> Iterator[str]:
    """The document in pieces, one result after another; ``limit`` cuts each list of features."""
    yield '{"results": ['
    for number, result in enumerate(results):
        yield ("," if number else "") + "\n{"
        for name, value in _result_record(result).items():
            yield f"\n  {json.dumps(name)}: {json.dumps(value, allow_nan=False)},"
        yield '\n  "features": ['
        for place, feature in enumerate(result.features(limit)):
            yield ("," if place else "") + "\n    " + json.dumps(_feature_record(feature), allow_nan=False)
        yield "\n  ]\n}"
    infos, plans, names = compared(results)
    yield f'\n],\n"notes": {json.dumps(comparison_notes(infos, plans, names))}}}\n'


def render_tables(tables: Sequence[Table]) -> Iterator[str]:
    """One object, ``{"tables": [...]}``: each with its name, title, what it is about, rows as objects, and notes."""
    yield '{"tables": ['
    for number, table in enumerate(tables):
        yield ("," if number else "") + f'\n{{\n  "table": {json.dumps(table.name)},'
        yield f'\n  "title": {json.dumps(table.title)},'
        for name, value in table.about.items():
            yield f"\n  {json.dumps(name)}: {json.dumps(json_value(value), allow_nan=False)},"
        yield '\n  "rows": ['
        for place, record in enumerate(table.records()):
            values = {name: json_value(value) for name, value in record.items()}
            yield ("," if place else "") + "\n    " + json.dumps(values, allow_nan=False)
        yield f'\n  ],\n  "notes": {json.dumps(list(table.notes))}\n}}'
    yield "\n]}\n"


def json_value(value: Any) -> Any:
    """``value`` with its floats as ``_number`` writes them."""
    if isinstance(value, Mapping):
        return {name: json_value(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(held) for held in value]
    return _number(value) if isinstance(value, float) else value


def _result_record(result: Result) -> dict[str, Any]:
    """One result without its features, as JSON values."""
    plan, model = result.plan, result.info.model
    return {
        "store": result.store,
        "model": model.name,
        "model_facts": model.model_dump(
            mode="json",
            include={
                "id",
                "revision",
                "architecture",
                "layers",
                "hidden_size",
                "total_parameters",
                "active_parameters",
                "experts",
                "shared_experts",
                "top_k",
                "routing",
                "quantisation",
                "native_dtype",
                "compute_dtype",
                "stored_dtype",
            },
        ),
        "definition": _definition_record(result),
        "answered_from": plan.answered_from,
        "partial": plan.partial,
        "sequences_in_store": plan.dimensions.sequences,
        "sequences": list(plan.sequences),
        "outliers": result.outliers,
        "unique_features": result.unique_features,
        "outliers_per_sequence": result.outliers_per_sequence,
        "outliers_per_sequence_interval": None if result.interval is None else list(result.interval),
        "interval_method": f"bootstrap percentile, 95%, {RESAMPLES} resamples of sequences, seed {SEED}",
        "outliers_by_sequence": list(result.by_sequence),
        "mean_layer_percent": result.mean_layer_percent,
        "mean_position_percent": result.mean_position_percent,
        "nonfinite_values": result.nonfinite,
        "excluded_cells": list(result.excluded),
        "excluded_as": AS_WITHOUT_HITS if result.excluded else None,
        "perplexity": _number(result.perplexity.value),
        "perplexity_unread": result.perplexity.unread or None,
        "losses": result.perplexity.losses,
        "nonfinite_losses": result.perplexity.nonfinite_losses,
        "details": _details_record(result),
    }


def _definition_record(result: Result) -> dict[str, Any]:
    plan, question = result.plan, result.plan.question
    definition, magnitude = question.definition, result.magnitude
    return {
        "preset": definition.preset,
        "magnitude": int(magnitude) if magnitude.denominator == 1 else float(magnitude),
        "layers": question.layers.text,
        "positions": question.positions.text,
        "sites": list(plan.sites),
        "unit": definition.unit,
        "layer_unit": definition.layer_unit,
        "scope": definition.scope,
        "sequence_share": None if definition.sequence_share is None else str(definition.sequence_share),
        **knob_record(question),
        "layers_total": plan.layers_total,
        "layers_needed": plan.layers_needed,
        "positions_total": plan.positions_total,
        "positions_needed": plan.positions_at_least,
        "positions_by_sequence": list(plan.positions_of),
        "sequences_needed": plan.sequences_needed,
        "words": definition_words(plan, decimal_text(magnitude)),
    }


def _details_record(result: Result) -> dict[str, Any] | None:
    detail = result.detail
    if detail is None:
        return None
    quartiles = detail.quartiles
    return {
        "hits": int(detail.hits.sum()),
        "ties": result.ties,
        "one_sided": int(detail.one_sided.sum()),
        "most_common_feature": detail.most_common,
        "most_common_feature_hits": detail.most_common_hits,
        "quartiles": None
        if quartiles is None
        else [_number(quartiles.first), _number(quartiles.median), _number(quartiles.third)],
    }


def _feature_record(feature: Feature) -> dict[str, Any]:
    return {
        "sequence": feature.sequence,
        "feature": feature.feature,
        "layer_percent": feature.layer_percent,
        "position_percent": feature.position_percent,
        "peak": _number(feature.peak),
        "critical_magnitude": _number(feature.critical_magnitude),
        "hits": feature.hits,
        "one_sided": feature.one_sided,
    }


def _number(value: float | None) -> float | str | None:
    """JSON has no infinity: it becomes the string "inf" or "-inf"; NaN becomes null."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
