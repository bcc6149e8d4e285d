"""One question to a store, as the user put it: which definition, at which magnitudes, answered how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from analyze.quantities import Share, ShareWords, parse_magnitudes, parse_share
from analyze.thresholds.definitions import DEFAULT_DEFINITION, DEFINITIONS, Definition
from analyze.thresholds.knobs import (
    LAYER_UNITS,
    POSITION_COVERAGES,
    SCOPES,
    Range,
    parse_layers_range,
    parse_minimum_hits,
    parse_positions_range,
)
from schemas.errors import InputError

__all__ = ["ENGINES", "TOKENS", "Question", "ask", "knob_record", "site_names"]

ENGINES = ("auto", "peaks", "slices")
TOKENS = ("all", "special", "first", "rest")
"""All tokens, the tokenizer's special ones, those that begin a window or a document and are not special, the others."""


@dataclass(frozen=True)
class Question:
    """All that decides an answer beside the store itself.

    ``sites`` None means every site that is stored by itself, without the residual; ``layers_range`` and
    ``positions_range`` None mean all. ``tokens``: one of ``TOKENS``. ``in_gain_units``: magnitudes are those of values
    divided by the gain of the norm that made them.
    """

    definition: Definition
    magnitudes: tuple[Fraction, ...]
    layers: Share
    positions: Share
    sites: tuple[str, ...] | None
    engine: str
    details: bool
    partial: bool
    layers_range: Range | None = None
    positions_range: Range | None = None
    tokens: str = "all"
    in_gain_units: bool = False

    @property
    def altered(self) -> tuple[str, ...]:
        """Knobs of the definition that are not as its preset has them, as their flags."""
        preset = DEFINITIONS[self.definition.preset]
        flags = ("layer_unit", "scope", "position_coverage", "minimum_hits")
        return tuple(
            f"--{flag.replace('_', '-')} {_text(getattr(self.definition, flag))}"
            for flag in flags
            if getattr(self.definition, flag) != getattr(preset, flag)
        )


def ask(
    magnitude: str | float = "6",
    *,
    layers: ShareWords = "25%",
    positions: ShareWords = "6%",
    definition: str = DEFAULT_DEFINITION,
    sites: str | Iterable[str] | None = None,
    engine: str = "auto",
    details: bool = False,
    partial: bool = False,
    layer_unit: str | None = None,
    scope: str | None = None,
    position_coverage: str | None = None,
    minimum_hits: str | int | None = None,
    layers_range: str | None = None,
    positions_range: str | None = None,
    tokens: str = "all",
    in_gain_units: bool = False,
) -> Question:
    """The question that these words put; they are those of the command line. Raises InputError for a malformed one.

    A knob that is None is as the preset ``definition`` has it. Shares may be numbers, taken as their text is: 0.25.

    >>> ask("4,6", layers="1/4").layers.value
    Fraction(1, 4)
    >>> ask("6", definition="llm-int8", layer_unit="block", minimum_hits="2%").altered
    ('--layer-unit block', '--minimum-hits 2%')
    """
    if definition not in DEFINITIONS:
        raise InputError(f"no definition is called {definition!r}; known definitions: {', '.join(DEFINITIONS)}")
    if tokens not in TOKENS:
        raise InputError(f"no class of tokens is called {tokens!r}; --tokens takes: {', '.join(TOKENS)}")
    if engine not in ENGINES:
        raise InputError(f"no engine is called {engine!r}; known engines: {', '.join(ENGINES)}")
    if details and engine == "peaks":
        raise InputError("--details needs the slices, and --engine peaks does not read them: leave out --engine")
    return Question(
        definition=_with_knobs(DEFINITIONS[definition], layer_unit, scope, position_coverage, minimum_hits),
        magnitudes=parse_magnitudes(str(magnitude)),
        layers=parse_share(layers, "--layers"),
        positions=parse_share(positions, "--positions"),
        sites=None if sites is None else site_names(sites),
        engine=engine,
        details=details,
        partial=partial,
        layers_range=None if layers_range is None else parse_layers_range(layers_range),
        positions_range=None if positions_range is None else parse_positions_range(positions_range),
        tokens=tokens,
        in_gain_units=in_gain_units,
    )


def _with_knobs(
    preset: Definition,
    layer_unit: str | None,
    scope: str | None,
    position_coverage: str | None,
    minimum_hits: str | int | None,
) -> Definition:
    """The preset with the knobs that are given."""
    given: dict[str, Any] = {}
    for name, value, known in (
        ("layer_unit", layer_unit, LAYER_UNITS),
        ("scope", scope, SCOPES),
        ("position_coverage", position_coverage, POSITION_COVERAGES),
    ):
        if value is None:
            continue
        if value not in known:
            raise InputError(f"--{name.replace('_', '-')} {value!r} is not known; it takes: {', '.join(known)}")
        given[name] = value
    if minimum_hits is not None:
        given["minimum_hits"] = parse_minimum_hits(minimum_hits)
    if given.get("scope") == "pooled" and preset.sequence_share is not None:
        raise InputError(
            f"--scope pooled leaves no sequences for {preset.preset} to count: take --definition llm-int8, which "
            "pools, or leave out --scope"
        )
    return replace(preset, **given)


def _text(value: Any) -> str:
    return str(getattr(value, "text", value))


def knob_record(question: Question) -> dict[str, Any]:
    """The knobs that no preset sets, as JSON values: a minimum that is a count as a number, a range as its text."""
    minimum = question.definition.minimum_hits
    layers, positions = question.layers_range, question.positions_range
    return {
        "position_coverage": question.definition.position_coverage,
        "minimum_hits": minimum.count if minimum.share is None else minimum.text,
        "layers_range": None if layers is None else layers.text,
        "positions_range": None if positions is None else positions.text,
        "tokens": question.tokens,
        "in_gain_units": question.in_gain_units,
    }


def site_names(sites: str | Iterable[str]) -> tuple[str, ...]:
    """The sites of ``ln_attn,ln_mlp``, or the names given; raises InputError for an empty name or one twice."""
    text = sites if isinstance(sites, str) else ",".join(map(str, sites))
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise InputError(f"--sites {text!r} has an empty name: write them as ln_attn,ln_mlp")
    if len(set(names)) < len(names):
        raise InputError(f"--sites {text!r} names a site twice")
    return names
