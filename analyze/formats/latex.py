"""Results as LaTeX tables (booktabs), their definition in the caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from analyze.tables.columns import Column, document_columns, feature_columns, rows_of, title_of
from analyze.tables.table import Field, Table
from analyze.tables.wording import notes
from analyze.thresholds.results import Result

__all__ = ["latex_text", "render", "render_tables"]

_LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "|": r"$|$",
    "<": r"$<$",
    ">": r"$>$",
}


def latex_text(text: str) -> str:
    """The text as LaTeX sets it."""
    return r"$\geq$".join("".join(_LATEX.get(c, c) for c in part) for part in text.split(">="))


def render(results: Sequence[Result], limit: int | None) -> Iterator[str]:
    """A table with a row per result, and features only where a number of them is given."""
    yield "% needs \\usepackage{booktabs}\n"
    caption = " ".join(notes(results))
    for columns in document_columns(results):
        yield _latex_table(rows_of(results, columns), columns, caption)
        caption = "Details of the hits. " + caption
    for result in results:
        if limit and result.outliers:
            listed = feature_columns(result)
            yield _latex_table(rows_of(result.features(limit), listed), listed, title_of(result, results))


def render_tables(tables: Sequence[Table]) -> Iterator[str]:
    """A table each, title and notes in its caption."""
    yield "% needs \\usepackage{booktabs}\n"
    for table in tables:
        yield _latex_table(table.cells(), table.columns(), " ".join([table.title.rstrip(".") + ".", *table.notes]))


def _latex_table(cells: list[list[str]], columns: Sequence[Column[Any] | Field], caption: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(caption)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if column.right else 'l' for column in columns)}}}",
        r"\toprule",
        *(" & ".join(map(latex_text, row)) + r" \\" for row in [[column.heading for column in columns]]),
        r"\midrule",
        *(" & ".join(map(latex_text, row)) + r" \\" for row in cells),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
