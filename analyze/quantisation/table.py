"""Quantisation errors as tables: each layer for programs and of one format, else a row over the layers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analyze.quantisation.formats import FORMATS
from analyze.quantisation.statistic import POSITIONS
from analyze.quantities import counted
from analyze.tables.table import Field, Table, Value, plain, shown
from analyze.tables.wording import NOT_LOOKED_AT

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["quantisation_tables"]

Row = tuple[Value, ...]


def _decibel(value: Value) -> str:
    return f"{value:.1f}" if isinstance(value, float) and math.isfinite(value) else shown(value)


def _share(value: Value) -> str:
    """A percentage with two figures at least, so that a small one does not look like none."""
    if not isinstance(value, float) or math.isnan(value):
        return shown(value)
    return f"{value:.1f}%" if value >= 0.95 else f"{value:.2g}%"


def _mean_count(value: Value) -> str:
    """A mean of counts: few columns with two decimals."""
    if not isinstance(value, float) or math.isnan(value):
        return shown(value)
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}"


_WHERE = (Field("format", "Format", right=False), Field("site", "Site", right=False))
_LAYER = Field("layer", "Layer")
_ERRORS = (
    Field("sqnr_db", "SQNR dB", _decibel),
    Field("relative_error_percent", "Relative error", _share),
    Field("flushed_percent", "Flushed", _share),
    Field("clipped_percent", "Clipped", _share),
)
_WITHOUT_0 = tuple(Field(f"{f.name}_without_0", f"{f.heading} without 0", f.text) for f in _ERRORS)
_COUNTS = (Field("values", "Values"), Field("nonfinite_values", "Non-finite"))
_OVER_LAYERS = (_ERRORS[0], Field("worst_sqnr_db", "Worst (layer)"), *_ERRORS[1:], *_WITHOUT_0[:2])
_COLUMNS = (
    Field("site", "Site", right=False),
    _LAYER,
    Field("tokens_per_call", "Tokens in a call"),
    Field("calls", "Calls"),
    Field("outlier_columns", "Outlier columns", _mean_count),
    Field("outlier_columns_percent", "of all", _share),
)


def quantisation_tables(found: xr.Dataset, name: str, *, for_programs: bool) -> list[Table]:
    """Tables of one run's ``quantisation_errors``; ``name`` is what the run is called.

    The first has a row for each format, site and layer; for people, where there are several formats, one for each
    format and site, with the median over layers and the worst layer. The second, with ``llm-int8``, has the outlier
    columns by tokens in a call: for people, their mean over layers.
    """
    by_layer = for_programs or found.sizes["format"] == 1
    if by_layer:
        fields, rows = (*_WHERE, _LAYER, *_ERRORS, *_WITHOUT_0, *_COUNTS), list(_layer_rows(found))
        if not for_programs:  # flushed and clipped change little without one position
            dropped = {*(f.name for f in _WITHOUT_0[2:]), "values", "nonfinite_values"}
            kept = [i for i, field in enumerate(fields) if field.name not in dropped]
            fields, rows = tuple(fields[i] for i in kept), [tuple(row[i] for i in kept) for row in rows]
    else:
        fields, rows = (*_WHERE, *_OVER_LAYERS), list(_rows_over_layers(found))
    title = f"{name}: quantisation error of the activation at each site (not perplexity)"
    notes = (*_notes(found, by_layer), *_left_out(found))
    about = {
        "excluded": list(found.attrs["excluded"]),
        "excluded_as": NOT_LOOKED_AT if found.attrs["excluded"] else None,
    }
    tables = [_named(Table("quantisation", title, fields, tuple(rows), notes, about), name, for_programs)]
    if "outlier_columns" in found:
        alpha = json.loads(found.attrs["definition"])["alpha"]
        title = f"{name}: outlier columns of LLM.int8() at alpha {alpha}, by tokens in one call"
        fields, rows = (_COLUMNS, list(_column_rows(found))) if for_programs else _columns_over_layers(found)
        notes = (*_column_notes(alpha, for_programs), *_left_out(found))
        tables.append(_named(Table("outlier_columns", title, fields, tuple(rows), notes, about), name, for_programs))
    return tables


def _named(table: Table, name: str, for_programs: bool) -> Table:
    """For programs, the run's name in each row: rows of several runs may come to lie in one file."""
    if not for_programs:
        return table
    fields = (Field("run", "Run", right=False), *table.fields)
    return dataclasses.replace(table, fields=fields, rows=tuple((name, *row) for row in table.rows))


def _values(found: xr.Dataset, positions: str) -> list[npt.NDArray[Any]]:
    """(format, site, layer) of each error, in percent where it is a share."""
    at = found.sel(positions=positions)
    return [at.sqnr_db.values, *(100 * at[name].values for name in ("relative_error", "flushed", "clipped"))]


def _layer_rows(found: xr.Dataset) -> Iterator[Row]:
    errors = [*_values(found, POSITIONS[0]), *_values(found, POSITIONS[1])]
    counts = [found[name].sel(positions=POSITIONS[0]).values for name in ("values", "nonfinite")]
    for f, form in enumerate(found.format.values.tolist()):
        for s, site in enumerate(found.site.values.tolist()):
            for i, layer in enumerate(found.layer.values.tolist()):
                own = [plain(array[f, s, i]) for array in errors]
                yield (form, site, layer, *own, *(plain(count[s, i]) for count in counts))


def _rows_over_layers(found: xr.Dataset) -> Iterator[Row]:
    everywhere, without_0 = _values(found, POSITIONS[0]), _values(found, POSITIONS[1])
    layers = found.layer.values
    for f, form in enumerate(found.format.values.tolist()):
        for s, site in enumerate(found.site.values.tolist()):
            sqnr, *rest = (_median(array[f, s]) for array in everywhere)
            others = (_median(array[f, s]) for array in without_0[:2])
            yield (form, site, sqnr, _worst(everywhere[0][f, s], layers), *rest, *others)


def _median(values: npt.NDArray[Any]) -> float:
    some = values[~np.isnan(values)]
    return float(np.median(some)) if some.size else math.nan


def _worst(sqnr: npt.NDArray[Any], layers: npt.NDArray[Any]) -> str | None:
    """The least of a site's SQNR and its layer, in words."""
    if np.isnan(sqnr).all():
        return None
    place = int(np.nanargmin(sqnr))
    return f"{_decibel(float(sqnr[place]))} ({layers[place]})"


def _column_rows(found: xr.Dataset) -> Iterator[Row]:
    features = found.attrs["features"]
    columns, calls = found.outlier_columns.values, found.calls.values
    for s, site in enumerate(found.site.values.tolist()):
        for i, layer in enumerate(found.layer.values.tolist()):
            for n, tokens in enumerate(found.tokens_per_call.values.tolist()):
                mean = float(columns[n, s, i])
                yield (site, layer, tokens, int(calls[n, s, i]), mean, 100 * mean / features)


def _columns_over_layers(found: xr.Dataset) -> tuple[tuple[Field, ...], list[Row]]:
    """Fields and rows: for each number of tokens the mean over layers at each site, and its share of all features."""
    features, sites = found.attrs["features"], found.site.values.tolist()
    fields = [Field("tokens_per_call", "Tokens in a call")]
    for site in sites:
        fields += [Field(site, site, _mean_count), Field(f"{site}_percent", "of all", _share)]
    rows = []
    for n, tokens in enumerate(found.tokens_per_call.values.tolist()):
        row: list[Value] = [tokens]
        for s in range(len(sites)):
            own = found.outlier_columns.values[n, s]
            mean = float(own[~np.isnan(own)].mean()) if not np.isnan(own).all() else math.nan
            row += [mean, 100 * mean / features]
        rows.append(tuple(row))
    return tuple(fields), rows


def _notes(found: xr.Dataset, by_layer: bool) -> Iterator[str]:
    asked = json.loads(found.attrs["definition"])
    yield found.attrs["is"]
    if not by_layer:
        yield "Each number is the median over layers; beside it the least SQNR of them, and in parentheses its layer."
    yield (
        "SQNR: 10 log10 of the sum of x^2 over that of the squared errors, which one massive value can own. Relative "
        "error: sum of |error| over sum of |x|. Flushed: nonzero values that become 0. Clipped: values held at the "
        "format's largest. Without 0: of all positions but 0, whose values still count for the scales."
    )
    for name in asked["formats"]:
        words = FORMATS[name].words
        own = {
            "int8-absmax-group": f"; a group has {asked['group_size']:,}",
            "llm-int8": f"; alpha is {asked['alpha']}",
        }
        yield f"{name}: {words}{own.get(name, '')}."
    nonfinite = int(found.nonfinite.sel(positions=POSITIONS[0]).sum())
    if nonfinite:
        yield f"{counted(nonfinite, 'value')} NaN or infinite: in no scale and no sum."


def _left_out(found: xr.Dataset) -> Iterator[str]:
    """What could not be read, as other tables say it, and what that means."""
    yield from (f"Left out as corrupt: {line}." for line in found.attrs["excluded"])
    if found.attrs["excluded"]:
        yield f"What is left out is {NOT_LOOKED_AT}."


def _column_notes(alpha: str, for_programs: bool) -> Iterator[str]:
    yield (
        f"Outlier columns: features in which a token of the call reaches {alpha}; they stay in 16 bits. Mean over the "
        f"calls that so many tokens at a time make of the store{'' if for_programs else ', and over layers'}. The "
        "errors of llm-int8 are of calls of one whole sequence."
    )
