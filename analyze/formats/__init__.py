"""Output formats: a module each; ``render(results, limit)`` and ``render_tables(tables)`` yield text in pieces."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyze.tables.table import Table
    from analyze.thresholds.results import Result

__all__ = ["FORMATS", "lists_features", "render", "render_tables"]

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "table": "analyze.formats.terminal",
        "json": "analyze.formats.json_document",
        "csv": "analyze.formats.comma_separated",
        "markdown": "analyze.formats.markdown",
        "latex": "analyze.formats.latex",
    }
)


def lists_features(form: str, limit: int | None, one_result: bool) -> bool:
    """True where ``render`` in that format lists the features of a result; ``one_result``: there is no other."""
    if limit is not None:
        return limit > 0
    return form == "json" or (form == "table" and one_result)


def render(results: Sequence[Result], form: str, limit: int | None = None) -> Iterator[str]:
    """``results`` in the format called ``form``; ``limit`` is how many features of each, None for its default.

    >>> from analyze import answer, ask
    >>> "".join(render(answer("runs/tiny.zarr", ask("6")), "csv"))[:27]
    'store,model,total_parameter'
    """
    pieces: Iterator[str] = _module(form).render(results, limit)
    return pieces


def render_tables(tables: Sequence[Table], form: str) -> Iterator[str]:
    """``tables`` in the format called ``form``, one after another.

    >>> from analyze.evaluation.criterion_tables import asked_tables
    >>> "".join(render_tables(asked_tables(["runs/tiny.zarr"], criteria="kurtosis"), "csv")).splitlines()[0]
    'store,model,tensor,mean_kurtosis,largest_kurtosis,largest_kurtosis_layer'
    """
    pieces: Iterator[str] = _module(form).render_tables(tables)
    return pieces


def _module(form: str) -> Any:
    """The module of a format; raises InputError where there is none of that name."""
    if form not in FORMATS:
        from schemas.errors import InputError

        raise InputError(f"no output format is called {form!r}; there are: {', '.join(FORMATS)}")
    return importlib.import_module(FORMATS[form])
