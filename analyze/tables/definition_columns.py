"""The definition that an answer goes by, knob by knob: attributes of its Dataset, and columns of its rows for programs.

A number without its definition is none: whatever table a question is answered by, these go with each of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyze.tables.likeness import said_of_each
from analyze.tables.table import Field, Value
from analyze.tables.wording import answered_words, definition_words, shares_words, words_of_all
from analyze.thresholds.plan import Plan
from analyze.thresholds.question import knob_record

__all__ = ["DEFINITION_FIELDS", "definition_attributes", "definition_of_all", "definition_values"]

_NAMES = (
    *("definition", "layers", "positions", "sites", "unit", "layer_unit", "scope", "position_coverage"),
    *("minimum_hits", "layers_range", "positions_range", "tokens", "in_gain_units"),
)

DEFINITION_FIELDS = tuple(Field(name, "", hidden=True) for name in (*_NAMES, "answered_from"))
"""For programs alone: people read the same in the notes."""


def definition_attributes(plan: Plan, magnitude: str) -> dict[str, Any]:
    """The knobs, in words what they come to at ``magnitude``, and the ``route``, as ``plan.answered_from``."""
    question = plan.question
    return {
        "definition": question.definition.preset,
        "altered": list(question.altered),
        "layers": question.layers.text,
        "positions": question.positions.text,
        "sites": list(plan.sites),
        "unit": question.definition.unit,
        "layer_unit": question.definition.layer_unit,
        "scope": question.definition.scope,
        **knob_record(question),
        "words": definition_words(plan, magnitude),
        "shares": shares_words(plan),
        "answered_from": answered_words(plan),
        "route": plan.answered_from,
    }


def definition_of_all(plans: Sequence[Plan], names: Sequence[str], magnitude: str) -> dict[str, Any]:
    """The same of several runs: ``words`` and ``answered_from`` name those that differ; three are lists, by run."""
    each = [definition_attributes(plan, magnitude) for plan in plans]
    return {
        **each[0],
        "sites": [" ".join(one["sites"]) for one in each],
        "words": words_of_all([one["words"] for one in each], names),
        "shares": [one["shares"] for one in each],
        "answered_from": said_of_each([one["answered_from"] for one in each], names),
        "route": [one["route"] for one in each],
    }


def definition_values(attributes: Mapping[str, Any], run: int | None = None) -> tuple[Value, ...]:
    """The cells of ``DEFINITION_FIELDS``, of those attributes; of ``definition_of_all``, those of one ``run``."""
    sites, route = attributes["sites"], attributes["route"]
    own = (" ".join(sites), route) if run is None else (sites[run], route[run])
    held = {**attributes, "sites": own[0], "minimum_hits": str(attributes["minimum_hits"])}
    return (*(held[name] for name in _NAMES), own[1])
