"""Tables as data: named fields, rows of plain values, notes below. Every output format renders any of them.

What a command prints beside the published table's columns is a Table; ``analyze.formats.render_tables`` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any

from analyze.tables.printable import printable

__all__ = ["Field", "Table", "Value", "percent", "plain", "shown", "union_of_fields"]

Value = str | int | float | bool | None


def shown(value: Value) -> str:
    """A value as a person reads it: thousands apart, six figures at most, ``-`` for nothing.

    >>> shown(32768), shown(5.96875), shown(None), shown(True)
    ('32,768', '5.96875', '-', 'yes')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else "\n".join(map(printable, value.split("\n")))


def percent(value: Value) -> str:
    """A share in percent, one decimal."""
    return shown(value) if not isinstance(value, int | float) or math.isnan(value) else f"{value:.1f}%"


@dataclass(frozen=True)
class Field:
    """One column: its name for programs, its heading for people, and how a person's cell is written.

    ``hidden`` from people, where the title says it. ``programs``: False for what a person reads in one cell and a
    program in several hidden fields, such as an interval.
    """

    name: str
    heading: str
    text: Callable[[Any], str] = shown
    right: bool = True
    hidden: bool = False
    programs: bool = True


@dataclass(frozen=True)
class Table:
    """``rows`` hold a value for each of ``fields``; ``notes`` are whole sentences that define them.

    ``about``: what a program needs beside the rows, as JSON takes it. ``for_people``: other rows of the same fields,
    where all of them would be too many to read.
    """

    name: str
    title: str
    fields: tuple[Field, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = default(default_factory=dict)
    for_people: tuple[tuple[Value, ...], ...] | None = None

    def __post_init__(self) -> None:
        """Make the title printable, for it names models; check that each row has a value for each field."""
        object.__setattr__(self, "title", printable(self.title))
        for row in (*self.rows, *(self.for_people or ())):
            if len(row) != len(self.fields):
                raise ValueError(f"table {self.name}: a row of {len(row)} values for {len(self.fields)} fields")

    def columns(self) -> list[Field]:
        """The fields that people see."""
        return [field for field in self.fields if not field.hidden]

    def cells(self) -> list[list[str]]:
        """The rows as a person reads them, of ``columns``."""
        rows = self.rows if self.for_people is None else self.for_people
        return [
            [field.text(value) for field, value in zip(self.fields, row, strict=True) if not field.hidden]
            for row in rows
        ]

    def records(self) -> Iterator[dict[str, Value]]:
        """The rows as mappings from the fields' names."""
        for row in self.rows:
            yield {field.name: value for field, value in zip(self.fields, row, strict=True) if field.programs}


def union_of_fields(tables: Sequence[Table]) -> list[str]:
    """Names of the fields of all tables, each once, in order of appearance."""
    return list(dict.fromkeys(field.name for table in tables for field in table.fields if field.programs))


def plain(value: Any) -> Value:
    """A NumPy scalar as the Python value that it is; anything else as it was."""
    item = getattr(value, "item", None)
    found: Value = item() if callable(item) else value
    return found
