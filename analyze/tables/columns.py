"""The columns of the tables that people read, as data: a heading, and the text of a row's cell below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from analyze.quantities import counted, decimal_text
from analyze.tables.likeness import precision_words
from analyze.tables.names import label, model_name, store_names
from analyze.tables.printable import printable
from analyze.thresholds.results import Feature, Result

__all__ = [
    "DETAIL_COLUMNS",
    "MAGNITUDE",
    "MODEL_COLUMNS",
    "RESULT_COLUMNS",
    "SHOWN_FEATURES",
    "Column",
    "compared_columns",
    "document_columns",
    "experts_words",
    "feature_columns",
    "name_columns",
    "parameters",
    "rows_of",
    "title_of",
]

Row = TypeVar("Row")

SHOWN_FEATURES = 10
"""How many features of a single result are listed where no number is asked for."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A heading and the cell below it; ``right`` for numbers."""

    heading: str
    text: Callable[[Row], str]
    right: bool = True


def parameters(count: int) -> str:
    """A parameter count as papers write it: three figures at most.

    >>> parameters(134_515_008), parameters(30_532_122_624)
    ('135M', '30.5B')
    """
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        scaled = float(f"{count / size:.3g}")
        if scaled >= 1:
            return (f"{scaled:.1f}".removesuffix(".0") if scaled < 100 else f"{scaled:.0f}") + letter
    return f"{count:,}"


def experts_words(experts: int | None, shared: int | None) -> str:
    """Experts of a layer, with those that every token goes to: ``128+1 shared``; ``-`` for none."""
    if not experts:
        return "-"
    return f"{experts:,}+{shared} shared" if shared else f"{experts:,}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}%"


def _value(value: float) -> str:
    return f"{value:.6g}"


def _per_sequence(result: Result) -> str:
    mean = f"{result.outliers_per_sequence:,.1f}"
    if result.interval is None:
        return mean
    low, high = result.interval
    places = 1 if high < 100 else 0
    return f"{mean} [{low:,.{places}f}, {high:,.{places}f}]"


def _quartiles(result: Result) -> str:
    found = None if result.detail is None else result.detail.quartiles
    if found is None:
        return "-"
    return ", ".join(f"{value:.4g}" for value in (found.first, found.median, found.third))


def _most_common(result: Result) -> str:
    detail = result.detail
    if detail is None or detail.most_common is None:
        return "-"
    return f"{detail.most_common} ({counted(detail.most_common_hits or 0, 'hit')})"


MODEL_COLUMNS: tuple[Column[Result], ...] = (
    Column("Model", lambda r: model_name(r.info), right=False),
    Column("Total", lambda r: parameters(r.info.model.total_parameters)),
    Column("Active", lambda r: parameters(r.info.model.active_parameters)),
    Column("Experts", lambda r: experts_words(r.info.model.experts, r.info.model.shared_experts)),
    Column("Top-k", lambda r: "-" if r.info.model.top_k is None else str(r.info.model.top_k)),
    Column("Routing", lambda r: printable(r.info.model.routing or "-"), right=False),
)

MAGNITUDE: Column[Result] = Column("Magnitude", lambda r: decimal_text(r.magnitude))

RESULT_COLUMNS: tuple[Column[Result], ...] = (
    Column("Outliers", lambda r: f"{r.outliers:,}"),
    Column("Unique features", lambda r: f"{r.unique_features:,}"),
    Column("Per sequence [95%]", _per_sequence),
    Column("Mean L%", lambda r: _percent(r.mean_layer_percent)),
    Column("Mean S%", lambda r: _percent(r.mean_position_percent)),
)

RUN_COLUMNS: tuple[Column[Result], ...] = (
    Column("Perplexity", lambda r: "-" if r.perplexity.value is None else f"{r.perplexity.value:.4g}"),
    Column("Precision", lambda r: precision_words(r.info), right=False),
)
"""Of several runs beside each other: two numbers without which no row says what it was measured on."""

DETAIL_COLUMNS: tuple[Column[Result], ...] = (
    Column("Hits", lambda r: "-" if r.detail is None else f"{int(r.detail.hits.sum()):,}"),
    Column("Ties", lambda r: "-" if r.ties is None else f"{r.ties:,}"),
    Column("One-sided", lambda r: "-" if r.detail is None else f"{int(r.detail.one_sided.sum()):,}"),
    Column("Most common feature", _most_common),
    Column("Quartiles of its hits", _quartiles),
)

FEATURE_COLUMNS: tuple[Column[Feature], ...] = (
    Column("Sequence", lambda f: "all" if f.sequence is None else str(f.sequence)),
    Column("Feature", lambda f: str(f.feature)),
    Column("L%", lambda f: _percent(f.layer_percent)),
    Column("S%", lambda f: _percent(f.position_percent)),
    Column("Peak", lambda f: _value(f.peak)),
    Column("Critical magnitude", lambda f: "-" if f.critical_magnitude is None else _value(f.critical_magnitude)),
    Column("Hits", lambda f: "-" if f.hits is None else f"{f.hits:,}"),
    Column("One-sided", lambda f: "-" if f.one_sided is None else ("yes" if f.one_sided else "no")),
)


def rows_of(rows: Iterable[Any], columns: Sequence[Column[Any]]) -> list[list[str]]:
    """The cells below ``columns``, as text."""
    return [[column.text(row) for column in columns] for row in rows]


def feature_columns(result: Result) -> tuple[Column[Feature], ...]:
    """Columns of a result's features: no sequence where the unit has none, no details where none were asked for."""
    left_out = set()
    if result.plan.question.definition.unit != "sequence-feature":
        left_out.add("Sequence")
    if result.detail is None:
        left_out |= {"Hits", "One-sided"}
    if result.plan.by_count:
        left_out.add("Critical magnitude")
    return tuple(column for column in FEATURE_COLUMNS if column.heading not in left_out)


def title_of(result: Result, results: Sequence[Result]) -> str:
    """What a table of a result's features is headed with, among ``results``."""
    return f"{label(result, store_names(results))} at magnitude {decimal_text(result.magnitude)}"


def name_columns(results: Sequence[Result]) -> tuple[Column[Result], ...]:
    """What tells the rows of ``results`` apart: the model, and the store where models share a name."""
    names = store_names(results)
    store: Column[Result] = Column("Store", lambda r: names[r.store], right=False)
    return (MODEL_COLUMNS[0], store) if names else MODEL_COLUMNS[:1]


def compared_columns(results: Sequence[Result]) -> tuple[Column[Result], ...]:
    """``RUN_COLUMNS`` where several stores stand beside each other, else none."""
    return RUN_COLUMNS if len({result.store for result in results}) > 1 else ()


def document_columns(results: Sequence[Result]) -> Iterator[tuple[Column[Result], ...]]:
    """Columns of each table of results in a document, where every row says all there is to say."""
    sweep = len({result.magnitude for result in results}) > 1
    models = (*name_columns(results), *MODEL_COLUMNS[1:])
    yield (*models, *((MAGNITUDE,) if sweep else ()), *RESULT_COLUMNS, *compared_columns(results))
    if results[0].detail is not None:
        yield (*name_columns(results), MAGNITUDE, *DETAIL_COLUMNS)
