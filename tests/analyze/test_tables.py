"""Tables in every format read back as the values that they were made of."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest

from analyze.formats import FORMATS, render_tables
from analyze.tables.table import Field, Table, percent, plain, shown

FIRST = Table(
    "first",
    "A title with 50% and a_b",
    (Field("name", "Name", right=False), Field("count", "Count"), Field("share", "Share", percent), Field("x", "X")),
    (("a|b", 12345, 25.0, math.inf), ("c", 0, None, math.nan), ("d", 1, 100.0, True)),
    ("A note: |X| >= 6.",),
)
SECOND = Table("second", "Another", (Field("name", "Name", right=False), Field("y", "Y")), (("z", 2.5),))


def test_shown() -> None:
    assert [shown(v) for v in (1234, 0.5, None, math.nan, "a", False)] == ["1,234", "0.5", "-", "-", "a", "no"]
    assert [percent(v) for v in (12.34, None, math.nan)] == ["12.3%", "-", "-"]
    import numpy as np

    assert type(plain(np.int64(3))) is int
    assert plain("a") == "a"


def test_a_row_must_have_a_value_for_each_field() -> None:
    with pytest.raises(ValueError, match="a row of 1 values for 2 fields"):
        Table("t", "T", SECOND.fields, (("z",),))


def test_json_reads_back() -> None:
    tables = json.loads("".join(render_tables([FIRST, SECOND], "json")), parse_constant=None)["tables"]
    assert [table["table"] for table in tables] == ["first", "second"]
    assert tables[0]["rows"][0] == {"name": "a|b", "count": 12345, "share": 25.0, "x": "inf"}
    assert tables[0]["rows"][1]["x"] is None
    assert tables[0]["notes"] == list(FIRST.notes)
    assert json.loads("".join(render_tables([], "json"))) == {"tables": []}


def test_csv_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO("".join(render_tables([FIRST], "csv")))))
    assert rows[0] == {"name": "a|b", "count": "12345", "share": "25.0", "x": "inf"}
    assert rows[1]["x"] == rows[1]["share"] == ""
    both = list(csv.DictReader(io.StringIO("".join(render_tables([FIRST, SECOND], "csv")))))
    assert [row["table"] for row in both] == ["first"] * 3 + ["second"]
    assert (both[3]["y"], both[3]["count"]) == ("2.5", "")


def test_markdown_and_latex_hold_every_cell() -> None:
    markdown = "".join(render_tables([FIRST, SECOND], "markdown"))
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in cells[2]] == [r"a\|b", "12,345", "25.0%", "inf"]
    assert r"- A note: \|X\| \>= 6." in markdown
    latex = "".join(render_tables([FIRST, SECOND], "latex"))
    assert r"12,345 & 25.0\% & inf \\" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2
    assert r"\geq" in latex


def test_a_wide_latex_table_takes_both_columns_in_smaller_type() -> None:
    letters = 30
    for fields, environment, size in ((4, "table", None), (9, "table*", r"\small"), (16, "table*", r"\scriptsize")):
        wide = Table("wide", "Wide", tuple(Field(f"f{i}", "Two words") for i in range(fields)), ((1234567,) * fields,))
        tex = "".join(render_tables([wide], "latex"))
        assert rf"\begin{{{environment}}}" in tex
        assert size is None or size in tex
        assert r"\shortstack[r]{Two\\words}" in tex
    words = Table("words", "Words", (Field("w", "W", right=False),), (("x" * letters,), ("[1] --keep\n\n\u05d0",)))
    tex = "".join(render_tables([words], "latex"))
    assert r"\begin{tabular}{p{11.4em}}" in tex
    assert "{}[1] -{}-keep  \u05d0 \\\\" in tex
    assert "LuaLaTeX" in tex


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_a_terminal_table_fits(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    wide = Table("w", "Wide", FIRST.fields[:1] * 3 + FIRST.fields[1:2], (("word " * 8, "long " * 8, "a " * 20, 5),))
    text = "".join(render_tables([FIRST, wide], "table"))
    assert max(map(len, text.splitlines())) <= int(columns)
    assert "12,345" in text
    assert "A note: |X| >= 6." in text


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows_is_a_table_too(form: str) -> None:
    assert "".join(render_tables([Table("t", "T", SECOND.fields, ())], form))


def test_people_see_other_rows_and_no_hidden_field_where_a_table_says_so() -> None:
    fields = (Field("store", "Store", hidden=True), Field("position", "Position"), Field("hits", "Hits"))
    table = Table("t", "Few", fields, (("a", 1, 2), ("a", 3, 4)), about={"limit": math.inf}, for_people=(("a", 3, 4),))
    assert "".join(render_tables([table], "csv")).splitlines() == ["store,position,hits", "a,1,2", "a,3,4"]
    assert "".join(render_tables([table], "table")).split() == ["Few", "Position", "Hits", "--------", "----", "3", "4"]
    document = json.loads("".join(render_tables([table], "json")))["tables"][0]
    assert (document["limit"], len(document["rows"])) == ("inf", 2)
