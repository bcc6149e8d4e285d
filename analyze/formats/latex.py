"""Results as LaTeX tables (booktabs), their definition in the caption."""

from __future__ import annotations

import itertools
import re
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
    "\0": "{}",
    "|": r"$|$",
    "<": r"$<$",
    ">": r"$>$",
    "\u2423": r"\textvisiblespace{}",
}

_NOT_LATIN = "% has letters beyond Latin: compile with LuaLaTeX or XeLaTeX, and a font that has them"
_BEYOND = re.compile(r"[^\0-\u017f\u2013-\u2026\u2423]").search
_EM = 0.52
"""Width of a letter: digits of Computer Modern are half an em, words a little less, capitals more."""
_GAP_POINTS = 3
_MOST_LETTERS = 22
_COLUMN_POINTS, _PAGE_POINTS = 238, 497
"""Of a two-column page, as figures have them: 3.3 and 6.9 inches."""
_PLACES = (
    ("table", 10, None, _COLUMN_POINTS),
    ("table", 9, r"\small", _COLUMN_POINTS),
    ("table*", 9, r"\small", _PAGE_POINTS),
    ("table*", 8, r"\footnotesize", _PAGE_POINTS),
    ("table*", 7, r"\scriptsize", _PAGE_POINTS),
)


def latex_text(text: str) -> str:
    """The text as LaTeX sets it, with no ligature for two hyphens and no paragraph in it."""
    words = " ".join(text.splitlines()).replace("--", "-\0-")
    return r"$\geq$".join("".join(_LATEX.get(c, c) for c in part) for part in words.split(">="))


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
    letters = [_letters(column, [row[i] for row in cells]) for i, column in enumerate(columns)]
    environment, size = _fit(letters)
    kinds = [_kind(column, wide) for column, wide in zip(columns, letters, strict=True)]
    text = caption + "".join(itertools.chain.from_iterable(cells))
    lines = [
        *([_NOT_LATIN] if _BEYOND(text) else []),
        rf"\begin{{{environment}}}",
        r"\centering",
        rf"\caption{{{latex_text(caption)}}}",
        *([] if size is None else [size, rf"\setlength{{\tabcolsep}}{{{_GAP_POINTS}pt}}"]),
        rf"\begin{{tabular}}{{{''.join(kinds)}}}",
        r"\toprule",
        " & ".join(map(_heading, columns)) + r" \\",
        r"\midrule",
        *(_row(row) for row in cells),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    text = " & ".join(map(latex_text, cells)) + r" \\"
    return "{}" + text if text[0] in "[*" else text  # else an argument of the row before


def _heading(column: Column[Any] | Field) -> str:
    """In two lines where it has two words, so that a column is as wide as its numbers."""
    first, _, rest = column.heading.partition(" ")
    if not rest:
        return latex_text(first)
    return rf"\shortstack[{'r' if column.right else 'l'}]{{{latex_text(first)}\\{latex_text(rest)}}}"


def _letters(column: Column[Any] | Field, cells: Sequence[str]) -> int:
    """How wide a column is; one of words is broken into lines where it would be wider than that."""
    first, _, rest = column.heading.partition(" ")
    widest = max(map(len, (first, rest, *cells)))
    return widest if column.right else min(widest, _MOST_LETTERS)


def _kind(column: Column[Any] | Field, letters: int) -> str:
    if column.right:
        return "r"
    return f"p{{{letters * _EM:.3g}em}}" if letters == _MOST_LETTERS else "l"


def _fit(letters: Sequence[int]) -> tuple[str, str | None]:
    """The environment, and size of type, in which the columns fit a two-column page: one column of it if they can."""
    for environment, points, size, most in _PLACES:
        gaps = 2 * len(letters) * (_GAP_POINTS if size else 6)
        if sum(letters) * _EM * points + gaps <= most:
            return environment, size
    return _PLACES[-1][0], _PLACES[-1][2]
