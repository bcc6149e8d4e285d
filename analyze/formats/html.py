"""Tables as HTML for a notebook: everything escaped, no script, colours those of the page they stand in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from analyze.tables.columns import (
    DETAIL_COLUMNS,
    MAGNITUDE,
    MODEL_COLUMNS,
    RESULT_COLUMNS,
    SHOWN_FEATURES,
    Column,
    feature_columns,
    rows_of,
    title_of,
)
from analyze.tables.table import Field, Table
from analyze.tables.wording import notes
from analyze.thresholds.results import Result

__all__ = ["render_result", "render_tables"]


def render_result(result: Result) -> str:
    """One result: its counts, the first of its features, and its definition in words."""
    details = () if result.detail is None else DETAIL_COLUMNS
    pieces = [_table([result], (*MODEL_COLUMNS, MAGNITUDE, *RESULT_COLUMNS, *details), title_of(result, [result]))]
    if result.outliers:
        listed = feature_columns(result)
        rest = result.outliers - SHOWN_FEATURES
        summary = f"Features{f': the first {SHOWN_FEATURES} of {result.outliers:,}' if rest > 0 else ''}"
        rows = _table(result.features(SHOWN_FEATURES), listed)
        pieces.append(f"<details><summary>{summary}</summary>{rows}</details>")
    return "".join([*pieces, _notes(notes([result]))])


def render_tables(tables: Sequence[Table]) -> Iterator[str]:
    """Each table with its title as its caption, its notes folded away below it."""
    for table in tables:
        yield _cells(table.cells(), table.columns(), table.title)
        if table.notes:
            yield _notes(table.notes)


def _table(rows: Iterable[Any], columns: Sequence[Column[Any]], title: str = "") -> str:
    return _cells(rows_of(rows, columns), columns, title)


def _cells(cells: list[list[str]], columns: Sequence[Column[Any] | Field], title: str) -> str:
    aligned = [f"text-align:{'right' if column.right else 'left'}" for column in columns]
    head = "".join(
        f'<th scope="col" style="{style}">{escape(column.heading)}</th>'
        for column, style in zip(columns, aligned, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{style}">{escape(cell)}</td>' for cell, style in zip(row, aligned, strict=True))
        + "</tr>"
        for row in cells
    )
    caption = f'<caption style="text-align:left;font-weight:bold">{escape(title)}</caption>' if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _notes(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<details><summary>What these numbers mean</summary><ul>{items}</ul></details>"
