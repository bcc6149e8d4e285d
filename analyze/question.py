"""One question to a store, as the user put it: which definition, at which magnitudes, answered how."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from analyze.definitions import DEFAULT_DEFINITION, DEFINITIONS, Definition
from analyze.quantities import Share, parse_magnitudes, parse_share
from schemas.errors import InputError

__all__ = ["ENGINES", "Question", "ask", "site_names"]

ENGINES = ("auto", "peaks", "slices")


@dataclass(frozen=True)
class Question:
    """All that decides an answer beside the store itself.

    ``sites`` None means every site that is stored by itself, without the residual.
    """

    definition: Definition
    magnitudes: tuple[Fraction, ...]
    layers: Share
    positions: Share
    sites: tuple[str, ...] | None
    engine: str
    details: bool
    partial: bool


def ask(
    magnitude: str | float = "6",
    *,
    layers: str = "25%",
    positions: str = "6%",
    definition: str = DEFAULT_DEFINITION,
    sites: str | None = None,
    engine: str = "auto",
    details: bool = False,
    partial: bool = False,
) -> Question:
    """The question that these words put; they are those of the command line. Raises InputError for a malformed one.

    >>> ask("4,6", layers="1/4").layers.value
    Fraction(1, 4)
    """
    if definition not in DEFINITIONS:
        raise InputError(f"no definition is called {definition!r}; known definitions: {', '.join(DEFINITIONS)}")
    if engine not in ENGINES:
        raise InputError(f"no engine is called {engine!r}; known engines: {', '.join(ENGINES)}")
    if details and engine == "peaks":
        raise InputError("--details needs the slices, and --engine peaks does not read them: leave out --engine")
    return Question(
        definition=DEFINITIONS[definition],
        magnitudes=parse_magnitudes(str(magnitude)),
        layers=parse_share(layers, "--layers"),
        positions=parse_share(positions, "--positions"),
        sites=None if sites is None else site_names(sites),
        engine=engine,
        details=details,
        partial=partial,
    )


def site_names(text: str) -> tuple[str, ...]:
    """The sites of ``ln_attn,ln_mlp``; raises InputError for an empty name or one that is there twice."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise InputError(f"--sites {text!r} has an empty name: write them as ln_attn,ln_mlp")
    if len(set(names)) < len(names):
        raise InputError(f"--sites {text!r} names a site twice")
    return names
