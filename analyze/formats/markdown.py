"""Results as Markdown tables, their definition in a list below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tabulate import tabulate

from analyze.tables.columns import Column, document_columns, feature_columns, rows_of, title_of
from analyze.tables.table import Field, Table
from analyze.tables.wording import notes
from analyze.thresholds.results import Result

__all__ = ["render", "render_tables"]


def render(results: Sequence[Result], limit: int | None) -> Iterator[str]:
    """A table with a row per result, features only where a number of them is given, and the notes."""
    for columns in document_columns(results):
        yield _table(results, columns)
    for result in results:
        if limit and result.outliers:
            yield f"**{_escaped(title_of(result, results))}**\n\n"
            yield _table(result.features(limit), feature_columns(result))
    yield "".join(f"- {_escaped(line)}\n" for line in notes(results))


def render_tables(tables: Sequence[Table]) -> Iterator[str]:
    """Each table under its title, its notes in a list below."""
    for number, table in enumerate(tables):
        yield ("\n" if number else "") + f"**{_escaped(table.title)}**\n\n"
        yield _cells_table(table.cells(), table.columns())
        yield "".join(f"- {_escaped(line)}\n" for line in table.notes)


def _table(rows: Iterable[Any], columns: Sequence[Column[Any]]) -> str:
    return _cells_table(rows_of(rows, columns), columns)


def _cells_table(rows: list[list[str]], columns: Sequence[Column[Any] | Field]) -> str:
    cells = [[_escaped(cell) for cell in row] for row in rows]
    alignment = ["right" if column.right else "left" for column in columns]
    headings = [_escaped(column.heading) for column in columns]
    return tabulate(cells, headings, "pipe", disable_numparse=True, colalign=alignment) + "\n\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_`<>])", r"\\\1", text)
