"""Results as a person reads them in a terminal: the table, the features of a single result, then what it all means."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import tabulate

from analyze.quantities import counted, decimal_text
from analyze.tables.columns import (
    DETAIL_COLUMNS,
    MAGNITUDE,
    MODEL_COLUMNS,
    RESULT_COLUMNS,
    SHOWN_FEATURES,
    Column,
    compared_columns,
    feature_columns,
    name_columns,
    rows_of,
    title_of,
)
from analyze.tables.names import label, store_names
from analyze.tables.sparkline import BARS, PLAIN_BARS, sparkline
from analyze.tables.table import Field, Table
from analyze.tables.wording import notes
from analyze.thresholds.results import Result

__all__ = ["render", "render_tables"]


def _headline(result: Result) -> str:
    """The answer in a sentence, before the table that says it in full."""
    plan, name = result.plan, title_of(result, [result])
    sequences = counted(len(plan.sequences), "sequence")
    if not result.outliers:
        return f"{name}: no outliers in {sequences}"
    features = f"{result.unique_features:,} of {counted(plan.dimensions.features, 'feature')}"
    count = counted(result.outliers, "outlier")
    if plan.question.definition.unit == "feature":
        return f"{name}: {count}, {features}, over {sequences}"
    return f"{name}: {count} in {features}, summed over {sequences}"


def _spark_line(group: Sequence[Result]) -> str:
    """Outliers of one store against magnitude, a bar each."""
    ascending = sorted(group, key=lambda result: result.magnitude)
    counts = [result.outliers for result in ascending]
    least, most = (decimal_text(result.magnitude) for result in (ascending[0], ascending[-1]))
    bars = sparkline(counts, _bars())
    return f"Outliers from {counts[0]:,} at {least} to {counts[-1]:,} at {most}: {bars} (heights logarithmic)\n"


def _bars() -> str:
    """Block elements where the terminal's encoding has them."""
    try:
        BARS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN_BARS
    return BARS


def _layout(
    rows: list[list[str]],
    columns: Sequence[Column[Any] | Field],
    headings: list[str] | None = None,
    widths: list[int | None] | None = None,
) -> str:
    tabulate.MIN_PADDING = 0  # two blanks on each side of a heading cost a twelve-column table a quarter of its width
    return tabulate.tabulate(
        rows,
        headings or [column.heading for column in columns],
        "simple",
        disable_numparse=True,
        colalign=["right" if column.right else "left" for column in columns],
        maxcolwidths=widths,
    )


def _by_store(results: Sequence[Result]) -> Iterator[list[Result]]:
    for _, group in groupby(results, key=lambda result: id(result.plan)):
        yield list(group)


def render(results: Sequence[Result], limit: int | None) -> Iterator[str]:
    """A row per store, or at several magnitudes a table per store; features of a single result; the notes."""
    width = _width()
    if len(results) == 1:
        yield from _wrapped([_headline(results[0])], width)
        yield "\n"
    if all(len(group) == 1 for group in _by_store(results)):
        yield _fitted(results, (*name_columns(results), *MODEL_COLUMNS[1:], *RESULT_COLUMNS), width) + "\n"
        if beside := compared_columns(results):  # a table by itself: with the others it fits no terminal
            yield "\n" + _fitted(results, (*name_columns(results), *beside), width) + "\n"
    else:
        for number, group in enumerate(_by_store(results)):
            yield ("\n" if number else "") + _model_line(group[0], results) + "\n"
            yield _spark_line(group)
            yield _layout(rows_of(group, (MAGNITUDE, *RESULT_COLUMNS)), (MAGNITUDE, *RESULT_COLUMNS)) + "\n"
    if results[0].detail is not None:
        columns = (*name_columns(results), MAGNITUDE, *DETAIL_COLUMNS)
        yield "\n" + _fitted(results, columns, width) + "\n"
    shown = limit if limit is not None else (SHOWN_FEATURES if len(results) == 1 else 0)
    for result in results:
        if shown and result.outliers:
            yield f"\n{title_of(result, results)}: {_shown_words(result, shown)}\n"
            listed = feature_columns(result)
            yield _layout(rows_of(result.features(shown), listed), listed) + "\n"
    yield "\n"
    yield from _wrapped(notes(results), width)


def render_tables(tables: Sequence[Table]) -> Iterator[str]:
    """Each table under its title, headings wrapped where it is wider than the terminal, then its notes."""
    width = _width()
    for number, table in enumerate(tables):
        yield ("\n" if number else "") + textwrap.fill(table.title, min(width, 110)) + "\n"
        cells, columns = table.cells(), table.columns()
        text = _layout(cells, columns)
        if max(map(len, text.splitlines())) > width:
            headings = [column.heading.replace(" ", "\n") for column in columns]
            text = _layout(cells, columns, headings, _widths(cells, columns, headings, width))
        yield text + "\n"
        if table.notes:
            yield "\n"
            yield from _wrapped(table.notes, width)


def _widths(cells: list[list[str]], columns: Sequence[Field], headings: list[str], width: int) -> list[int | None]:
    """A width for each column of texts, the widest made narrower until all fit ``width``, but none below 8."""
    natural = [
        max(len(line) for text in (heading, *(row[i] for row in cells)) for line in text.split("\n"))
        for i, heading in enumerate(headings)
    ]
    texts = [i for i, column in enumerate(columns) if not column.right]
    while sum(natural) + 2 * (len(natural) - 1) > width:
        widest = max(texts, key=lambda i: natural[i], default=None)
        if widest is None or natural[widest] <= 8:
            break
        natural[widest] -= 1
    return [natural[i] if i in texts else None for i in range(len(columns))]


def _width() -> int:
    return max(60, shutil.get_terminal_size((100, 24)).columns)


def _wrapped(lines: Sequence[str], width: int) -> Iterator[str]:
    for line in lines:
        yield textwrap.fill(line, min(width, 110), subsequent_indent="  ", break_on_hyphens=False) + "\n"


def _shown_words(result: Result, shown: int) -> str:
    what = "pair" if result.plan.question.definition.unit == "sequence-feature" else "feature"
    if result.outliers == 1:
        return f"the only {what}"
    what += "s"
    largest = "peak" if result.plan.by_count else "critical magnitude"
    if result.outliers <= shown:
        return f"all {result.outliers:,} {what}, by {largest}"
    return f"the {shown:,} of {result.outliers:,} {what} with the largest {largest} (--features all for more)"


def _model_line(result: Result, results: Sequence[Result]) -> str:
    cells = {column.heading: column.text(result) for column in MODEL_COLUMNS}
    facts = f"{label(result, store_names(results))}: {cells['Total']} parameters, {cells['Active']} active"
    if cells["Experts"] != "-":
        facts += f", {cells['Experts']} experts, top {cells['Top-k']}, {cells['Routing']}"
    for column in compared_columns(results):
        facts += f", {column.heading.lower()} {column.text(result)}"
    return facts


def _fitted(results: Sequence[Result], columns: Sequence[Column[Result]], width: int) -> str:
    """The table, its headings and then its widest texts wrapped as far as needed for ``width``."""
    cells = rows_of(results, columns)
    text = _layout(cells, columns)
    headings = [column.heading.replace(" ", "\n") for column in columns]
    cells = [[cell.replace(" [", "\n[") for cell in row] for row in cells]
    for routing, model in ((40, 40), (24, 24), (18, 18), (14, 14), (11, 14), (11, 11), (8, 11)):
        if max(map(len, text.splitlines())) <= width:
            break
        longest = {"Model": model, "Store": model, "Routing": routing, "Experts": 8}
        text = _layout(cells, columns, headings, [longest.get(column.heading) for column in columns])
    return text
