"""Results as Markdown tables, their definition in a list below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tabulate import tabulate

from analyze.columns import Column, document_columns, feature_columns, rows_of, title_of
from analyze.results import Result
from analyze.wording import notes

__all__ = ["render"]


def render(results: Sequence[Result], limit: int | None) -> Iterator[str]:
    """A table with a row per result, features only where a number of them is given, and the notes."""
    for columns in document_columns(results):
        yield _table(results, columns)
    for result in results:
        if limit and result.outliers:
            yield f"**{_escaped(title_of(result, results))}**\n\n"
            yield _table(result.features(limit), feature_columns(result))
    yield "".join(f"- {_escaped(line)}\n" for line in notes(results))


def _table(rows: Iterable[Any], columns: Sequence[Column[Any]]) -> str:
    cells = [[_escaped(cell) for cell in row] for row in rows_of(rows, columns)]
    alignment = ["right" if column.right else "left" for column in columns]
    headings = [column.heading for column in columns]
    return tabulate(cells, headings, "pipe", disable_numparse=True, colalign=alignment) + "\n\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_`<>])", r"\\\1", text)
