"""Tables between models: measured beside published, emergence by family, and two runs against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr

from analyze.between.compare import left_out_cells
from analyze.between.protocol import protocol_aspects
from analyze.between.published import find_published
from analyze.quantities import decimal_text
from analyze.tables.columns import experts_words, parameters
from analyze.tables.definition_columns import DEFINITION_FIELDS, definition_attributes, definition_values
from analyze.tables.likeness import precision_words
from analyze.tables.names import label, store_names
from analyze.tables.table import Field, Table, Value, percent, plain, shown
from analyze.tables.wording import AS_WITHOUT_HITS, definition_notes, notes
from analyze.thresholds.results import Result

__all__ = ["diff_tables", "emergence_table", "published_tables"]

_LISTED = 25


def _count(value: Value) -> str:
    return parameters(value) if isinstance(value, int) else shown(value)


def _four(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) and value == value else shown(value)


def _signed(value: Value) -> str:
    return f"{value:+.6g}" if isinstance(value, float) else shown(value)


def published_tables(results: Sequence[Result]) -> list[Table]:
    """The measured row of each result and below it the published one; then the two protocols, aspect by aspect."""
    stores = store_names(results)
    rows: list[tuple[Value, ...]] = []
    aspects: list[tuple[Value, ...]] = []
    told: list[str] = []
    for result in results:
        name, model = label(result, stores), result.info.model
        rows.append(
            (
                *(name, name, "measured", decimal_text(result.magnitude)),
                *(parameters(model.total_parameters), parameters(model.active_parameters)),
                *(experts_words(model.experts, model.shared_experts), model.experts, model.shared_experts),
                *(model.top_k, model.routing, result.outliers),
                *(result.unique_features, result.mean_layer_percent, result.mean_position_percent),
                *(result.perplexity.value, precision_words(result.info), result.store),
                *definition_values(definition_attributes(result.plan, decimal_text(result.magnitude))),
            )
        )
        row = find_published(model)
        if row is None:
            told.append(f"{name}: there is no published row for {model.id}.")
            continue
        rows.append(
            (
                *("  published", name, "published", "6", row.total_parameters, row.active_parameters),
                *(experts_words(row.experts, row.shared_experts), row.experts, row.shared_experts),
                *(row.top_k, row.routing, row.outliers, None),
                *(row.mean_layer_percent, row.mean_position_percent, row.perplexity, row.precision),
                *([None] * (1 + len(DEFINITION_FIELDS))),
            )
        )
        told.append(f"{name}: published as {row.name} in {row.protocol.source}.")
        if row.correction is not None:
            told.append(f"{name}: {row.correction}.")
        if row.hub_id.lower() != model.id.lower():
            told.append(f"{name}: matched by its name, not by the Hub id {row.hub_id or '(none published)'}.")
        if result.plan.question.definition.preset != row.protocol.definition:
            told.append(f"{name}: --definition {row.protocol.definition} counts as that table does.")
        aspects += [
            (name, aspect.name, aspect.published, aspect.here, aspect.same)
            for aspect in protocol_aspects(row, result.info, result.plan)
        ]
    fields = (
        Field("", "Model", right=False, programs=False),
        Field("model", "", hidden=True),
        Field("row", "", hidden=True),
        Field("magnitude", "Magnitude", hidden=len({r.magnitude for r in results}) == 1),
        Field("total_parameters", "Total"),
        Field("active_parameters", "Active"),
        Field("experts_words", "Experts"),
        Field("experts", "", hidden=True),
        Field("shared_experts", "", hidden=True),
        Field("top_k", "Top-k"),
        Field("routing", "", hidden=True),
        Field("outliers", "Outliers"),
        Field("unique_features", "Unique features"),
        Field("mean_layer_percent", "Mean L%", percent),
        Field("mean_position_percent", "Mean S%", percent),
        Field("perplexity", "Perplexity", _four),
        Field("precision", "Precision", right=False),
        Field("store", "", hidden=True),
        *DEFINITION_FIELDS,
    )
    excluded = left_out_cells(results, [label(result, stores) for result in results])
    told += notes(results)
    about = _about_left_out(list(dict.fromkeys(excluded)))
    title = "Measured beside published"
    tables = [Table("published", title, fields, tuple(rows), tuple(dict.fromkeys(told)), about)]
    if aspects:
        tables.append(
            Table(
                "protocol",
                "What the published rows were made of, and these",
                (
                    Field("model", "Model", right=False),
                    Field("aspect", "Aspect", right=False),
                    Field("published", "Published", right=False),
                    Field("here", "Here", right=False),
                    Field("same", "Same", right=False),
                ),
                tuple(dict.fromkeys(aspects)),
                ("Same: not known where the publication does not say, or says too little to tell.",),
            )
        )
    return tables


def emergence_table(found: xr.Dataset) -> Table:
    """A row for each run of ``emergence``'s Dataset, family by family."""
    names: tuple[str, ...] = ("family", "run", "total_parameters", "active_parameters", "perplexity")
    names = (*names, "outliers", "unique_features")
    names = (*names, "outliers_per_sequence", "mean_layer_percent", "mean_position_percent", "largest_feature")
    names = (*names, "critical_magnitude", "median_magnitude", "median_from")
    rows = [_row(found.isel(run=i), names) for i in range(found.sizes["run"])]
    largest = names.index("largest_feature")
    rows = [
        (
            *(None if i == largest and v == -1 else v for i, v in enumerate(row)),
            *(found.attrs["stores"][run], found.attrs["magnitude"], *definition_values(found.attrs, run)),
        )
        for run, row in enumerate(rows)
    ]
    sources = sorted(set(found.median_from.values.tolist()) - {""})
    families = len(set(found.family.values.tolist()))
    return Table(
        "emergence",
        f"Emergence at magnitude {found.attrs['magnitude_text']}: against size and perplexity, family by family",
        (
            Field("family", "Family", right=False),
            Field("model", "Model", right=False),
            Field("total_parameters", "Total", _count),
            Field("active_parameters", "Active", _count),
            Field("perplexity", "Perplexity", _four),
            Field("outliers", "Outliers"),
            Field("unique_features", "Unique features"),
            Field("outliers_per_sequence", "", hidden=True),
            Field("mean_layer_percent", "Mean L%", percent),
            Field("mean_position_percent", "Mean S%", percent),
            Field("largest_feature", "Largest feature", lambda v: "-" if v is None else str(v)),
            Field("critical_magnitude", "", hidden=True),
            Field("median_magnitude", "Median |x|"),
            Field("median_from", "", hidden=True),
            Field("store", "", hidden=True),
            Field("magnitude", "", hidden=True),
            *DEFINITION_FIELDS,
        ),
        tuple(rows),
        (
            *_defined(found),
            "The axes are those of LLM.int8(), Figures 3 and 4: total and active parameters, and perplexity.",
            f"{'1 family' if families == 1 else f'{families} families'}: models of one architecture by one "
            "publisher, by total parameters. No line is fitted: a trend is a statement about the models of one family.",
            "Largest feature: that of the counted unit with the largest critical magnitude. Median |x|, of its hits, "
            f"from {' and '.join(sources) or 'nothing: none is counted'}. (From slices with --details, from peaks "
            "without: two numbers, not to be mixed.)",
            *found.attrs["notes"],
        ),
        _about_left_out(found.attrs["excluded"]),
    )


def _about_left_out(cells: list[str]) -> dict[str, Any]:
    """For programs: what could not be read, and what that means."""
    return {"excluded": cells, "excluded_as": AS_WITHOUT_HITS if cells else None}


def diff_tables(found: xr.Dataset, limit: int | None = None) -> list[Table]:
    """A row of counts, and the units that moved farthest: ``limit`` of them, 25 by default."""
    one, other = found.run.values.tolist()
    first, second = found.outliers.values.tolist()
    kept = min(found.sizes["unit"], _LISTED if limit is None else limit)
    pairs = "sequence" in found.coords
    summary = _row(
        found, ("both", "first_only", "second_only", "jaccard", "unmoved", "median_moved", "largest_move", "all_equal")
    )
    moved_of = found.attrs["moved_of"]
    first_name, second_name = (f"{moved_of.split()[0]}_{side}" for side in ("first", "second"))
    names = (*(("sequence",) if pairs else ()), "feature", "counts_in")
    names = (*names, first_name, second_name, "moved", "ratio")
    rows = tuple(_row(found.isel(unit=i), names) for i in range(kept))
    what = "pairs" if pairs else "features"
    listed = f"{kept:,} of {found.sizes['unit']:,}" if kept < found.sizes["unit"] else f"all {kept:,}"
    words = {"both": "both", "first only": "A only", "second only": "B only"}
    return [
        Table(
            "difference",
            f"A = {one}, B = {other}, at magnitude {found.attrs['magnitude_text']}",
            (
                Field("outliers_first", "Outliers A"),
                Field("outliers_second", "Outliers B"),
                Field("both", "In both"),
                Field("first_only", "A only"),
                Field("second_only", "B only"),
                Field("jaccard", "Jaccard"),
                Field("unmoved", "Unmoved"),
                Field("median_moved", "Median move"),
                Field("largest_move", "Largest move of any"),
                Field("all_equal", "All equal"),
                Field("store_first", "", hidden=True),
                Field("store_second", "", hidden=True),
                Field("magnitude", "", hidden=True),
                *DEFINITION_FIELDS,
            ),
            (
                (
                    *(first, second, *summary, *found.attrs["stores"], found.attrs["magnitude"]),
                    *definition_values(found.attrs, 0)[:-1],
                    " ".join(dict.fromkeys(found.attrs["route"])),
                ),
            ),
            (
                *_defined(found),
                f"Unmoved: {moved_of}s that are equal in both, exactly; median move: of the units in both. "
                "Largest move, all equal: of every unit there is, counted or not.",
                *(
                    ("Each magnitude is answered by counts of its own hits: there are no critical magnitudes.",)
                    if moved_of == "peak"
                    else ()
                ),
                *found.attrs["notes"],
            ),
        ),
        Table(
            "moves",
            f"The {what} in either, by how far they moved: {listed}",
            (
                *((Field("sequence", "Sequence"),) if pairs else ()),
                Field("feature", "Feature", str),
                Field("counts_in", "In", lambda v: words[str(v)], right=False),
                Field(first_name, f"{moved_of.capitalize()} A"),
                Field(second_name, f"{moved_of.capitalize()} B"),
                Field("moved", "Moved", _signed),
                Field("ratio", "Ratio"),
            ),
            rows,
        ),
    ]


def _defined(found: xr.Dataset) -> list[str]:
    """What counts in these runs, and where the answers came from."""
    about, names = found.attrs, found.run.values.tolist()
    said = about["words"], about["shares"], about["answered_from"]
    return definition_notes(about["definition"], about["altered"], *said, names)


def _row(found: xr.Dataset, names: Sequence[str]) -> tuple[Value, ...]:
    values: list[Any] = [found[name].values for name in names]
    return tuple(plain(value) for value in values)
