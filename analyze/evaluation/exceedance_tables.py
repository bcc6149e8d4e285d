"""Tables of exceedances by layer, by position and by expert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from analyze.quantities import counted
from analyze.tables.table import Field, Table, Value, percent
from analyze.tables.wording import NOT_LOOKED_AT

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["bin_names", "exceedance_table", "position_bins"]

_SHOWN_EXPERTS = 20
_FIELDS = (
    Field("store", "Store", right=False, hidden=True),
    Field("model", "Model", right=False, hidden=True),
)
_ABOUT = ("store", "model", "by", "minimum_hits", "layer_unit", "in_gain_units")
_EACH_ALONE = 4
"""Positions below this have rows of their own for people; later ones are put together up to each power of two."""


def exceedance_table(found: xr.Dataset) -> Table:
    """The table of what ``exceedances_by`` found."""
    return _TABLES[found.attrs["by"]](found)


def _start(found: xr.Dataset) -> tuple[Value, ...]:
    return (found.attrs["store"], found.attrs["model"])


def _share(part: int, whole: int) -> float | None:
    """Percent, or None of nothing."""
    return 100 * part / whole if whole else None


def _by_layer(found: xr.Dataset) -> Table:
    fields = [
        *_FIELDS,
        Field("magnitude", "Magnitude", hidden=found.sizes["magnitude"] == 1),
        Field("site", "Site", right=False),
        Field("layer", "Layer"),
        Field("hits", "Hits"),
        Field("value_percent", "of values", text=_fine_percent),
        Field("tokens", "Tokens hit"),
        Field("token_percent", "of tokens", text=percent),
        Field("features", "Features hit"),
    ]
    top = "top" in found
    if top:
        fields += [Field(f"top_{i}", f"Top {i}") for i in (1, 2, 3)] + [Field("median", "Median |X|")]
    axes = ("magnitude", "site", "layer")
    hits, tokens, features = (found[name].transpose(*axes).values.tolist() for name in ("hits", "tokens", "features"))
    of = {name: found[name].transpose("site", "layer").values.tolist() for name in ("values", "looked_at")}
    largest = found.top.transpose("site", "layer", "place").values.tolist() if top else None
    median = found["median"].transpose("site", "layer").values.tolist() if top else None
    start, layers = _start(found), found.layer.values.tolist()
    rows = [
        (
            *start,
            magnitude,
            site,
            layer,
            hits[m][i][j],
            _share(hits[m][i][j], of["values"][i][j]),
            tokens[m][i][j],
            _share(tokens[m][i][j], of["looked_at"][i][j]),
            features[m][i][j],
            *([] if largest is None or median is None else [*largest[i][j], median[i][j]]),
        )
        for m, magnitude in enumerate(found.magnitude.values.tolist())
        for i, site in enumerate(found.site.values.tolist())
        for j, layer in enumerate(layers)
    ]
    notes = [
        f"{_hit_note(found)} Tokens: those with at least one. Features: those with at least {_at_least(found)}.",
        "Top 1, 2, 3 and the median of |X|: of each sequence's (position, feature) tensor, the mean over sequences."
        if top
        else "No largest and median |X|: the store keeps no values below its floor.",
    ]
    return _table(found, "layer", fields, rows, notes)


def _by_position(found: xr.Dataset) -> Table:
    fields = (
        *_FIELDS,
        Field("magnitude", "Magnitude", hidden=found.sizes["magnitude"] == 1),
        Field("site", "Site", right=False),
        Field("position", "Position"),
        Field("hits", "Hits"),
        Field("hits_per_token", "Hits per token and layer"),
        Field("percent", "of all hits", text=percent),
    )
    layers, size = found.sizes["layer"], found.sizes["position"]
    start = _start(found)
    totals = found.hits.sum("layer").transpose("magnitude", "site", "position").values
    # summed over layers, as a cell that could not be read is missing from its own layer alone
    counts = found.rows.sum("layer").transpose("site", "position").values

    def rows(parts: list[range], names: list[Value]) -> Iterator[tuple[Value, ...]]:
        bounds = [0, *(part.stop for part in parts)]
        for magnitude, of_magnitude in zip(found.magnitude.values.tolist(), totals, strict=True):
            for site, hits, tokens in zip(found.site.values.tolist(), of_magnitude, counts, strict=True):
                whole = int(hits.sum())
                sums = (np.diff(np.cumsum([0, *one])[bounds]).tolist() for one in (hits, tokens))
                for name, own, of in zip(names, *sums, strict=True):
                    if of:
                        yield (*start, magnitude, site, name, own, own / of, _share(own, whole))

    every = [range(i, i + 1) for i in range(size)]
    binned = position_bins(size)
    names: list[Value] = list(bin_names(binned))
    note = f"{_hit_note(found)} Summed over {counted(layers, 'layer')} and all sequences analysed."
    if found.attrs.get("excluded"):
        note += " Per token and layer: of the cells that were read."
    return _table(
        found, "position", fields, list(rows(every, list(range(size)))), [note], for_people=tuple(rows(binned, names))
    )


def position_bins(size: int) -> list[range]:
    """0, 1, 2, 3, 4-7, 8-15 and so on."""
    starts = list(range(min(_EACH_ALONE, size)))
    while starts and starts[-1] < size:
        starts.append(max(starts[-1] + 1, _EACH_ALONE) if starts[-1] < _EACH_ALONE else 2 * starts[-1])
    return [range(a, min(b, size)) for a, b in zip(starts, [*starts[1:], size], strict=True) if a < min(b, size)]


def bin_names(bins: Iterable[range]) -> tuple[str, ...]:
    """What ``position_bins`` are called: ``3``, ``4-7``."""
    return tuple(str(b.start) if len(b) == 1 else f"{b.start}-{b.stop - 1}" for b in bins)


def _by_expert(found: xr.Dataset) -> Table:
    fields = (
        *_FIELDS,
        Field("magnitude", "Magnitude", hidden=found.sizes["magnitude"] == 1),
        Field("layer", "Layer"),
        Field("expert", "Expert"),
        Field("tokens", "Tokens"),
        Field("hits", "Hits"),
        Field("hits_per_token", "Hits per token"),
        Field("features", "Features hit"),
        Field("outlier_features", "Outlier features"),
        Field("outlier_percent", "of features", text=_fine_percent),
    )
    features, start, layers = found.attrs["features"], _start(found), found.layer.values.tolist()
    rows: list[tuple[Value, ...]] = []
    for magnitude in found.magnitude.values.tolist():
        own = found.sel(magnitude=magnitude)
        tokens, hits, hit = own.tokens.values, own.hits.values, own.features.values
        outlier_features = own.outlier_features.values
        for i, expert in np.argwhere(tokens > 0).tolist():
            outliers = int(outlier_features[i, expert])
            count, of = int(hits[i, expert]), int(tokens[i, expert])
            rows.append(
                (
                    *start,
                    magnitude,
                    layers[i],
                    expert,
                    of,
                    count,
                    count / of,
                    int(hit[i, expert]),
                    outliers,
                    _share(outliers, features),
                )
            )
    notes = [
        f"{_hit_note(found)} Of the hidden states that enter the experts (ln_mlp); a token counts with each of its "
        "experts.",
        f"Outlier features: those hit in at least {found.attrs['positions']} of the expert's tokens.",
    ]
    if found.attrs["minimum_hits"] != "1":
        notes.append(f"Features hit: those with at least {_at_least(found)}.")
    shown = tuple(sorted(rows, key=lambda row: (-float(row[7] or 0), row[3], row[4]))[:_SHOWN_EXPERTS])
    if len(rows) > len(shown):
        notes.append(f"The {len(shown)} of {len(rows):,} rows with most hits per token; json and csv have all.")
    return _table(found, "expert", fields, rows, notes, for_people=shown)


def _fine_percent(value: Value) -> str:
    return f"{value:.3g}%" if isinstance(value, int | float) else "-"


def _at_least(found: xr.Dataset) -> str:
    minimum = found.attrs["minimum_hits"]
    return "one" if minimum == "1" else f"{minimum} hits" if minimum.isdigit() else f"{minimum} of its tokens hit"


def _hit_note(found: xr.Dataset) -> str:
    several = found.sizes["magnitude"] > 1
    at = "the row's magnitude" if several else found.magnitude.values.tolist()[0]
    units = " (X in units of the norm's gain)" if found.attrs["in_gain_units"] else ""
    return f"Hits: values with |X| >= {at}{units}."


def _table(
    found: xr.Dataset,
    by: str,
    fields: Iterable[Field],
    rows: Iterable[tuple[Value, ...]],
    notes: Iterable[str],
    for_people: tuple[tuple[Value, ...], ...] | None = None,
) -> Table:
    left_out = [f"Left out as corrupt: {line}." for line in found.attrs.get("excluded", [])]
    left_out += [f"What is left out is {NOT_LOOKED_AT}."] if left_out else []
    block = found.attrs["layer_unit"] == "block"
    told = ["Blocks: a layer's tensors at these sites are one, at each place the largest |X| of them."] if block else []
    return Table(
        name=f"by-{by}",
        title=f"Hits by {by}: {found.attrs.get('label', found.attrs['model'])}",
        fields=tuple(fields),
        rows=tuple(rows),
        notes=(*notes, *told, *left_out),
        about={
            **{name: found.attrs[name] for name in _ABOUT},
            "excluded": list(found.attrs.get("excluded", [])),
            "excluded_as": NOT_LOOKED_AT if left_out else None,
        },
        for_people=for_people,
    )


_TABLES: Mapping[str, Callable[[xr.Dataset], Table]] = MappingProxyType(
    {"layer": _by_layer, "position": _by_position, "expert": _by_expert}
)
