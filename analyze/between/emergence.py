"""Emergence: what grows with size and with perplexity, family by family (LLM.int8(), Figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from analyze.between.compare import answers, left_out_cells, left_out_notes, run_labels
from analyze.progress import Progress, silent_progress
from analyze.quantities import decimal_text
from analyze.resources import DEFAULT_RESOURCES, Resources
from analyze.tables.definition_columns import definition_of_all
from analyze.tables.likeness import comparison_notes, precision_words
from analyze.thresholds.answers import peak_source
from analyze.thresholds.asking import AnyRun
from analyze.thresholds.definitions import ONE_HIT
from analyze.thresholds.known_numbers import Numbers, known_numbers
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.results import Result
from schemas.bits import Encoding, magnitude_value
from schemas.errors import InputError
from schemas.provenance import ModelInfo
from schemas.run import Run

__all__ = ["emergence", "emergence_of", "family_of", "median_magnitude", "median_of"]

FROM_SLICES = "slices: median of |x| over the feature's hits in all cells"
FROM_PEAKS = "peaks: median, over the positions that it hits, of its largest |x| in any cell"


def family_of(model: ModelInfo) -> str:
    """The family that a model is taken for: its architecture's type, by the organisation that published it.

    ``qwen3_moe (Qwen)``; of a local folder the type alone.
    """
    parts = model.id.split("/")
    organisation = parts[0] if len(parts) == 2 and all(parts) and not model.id.startswith((".", "~")) else ""
    return f"{model.model_type} ({organisation})" if organisation else model.model_type


def emergence(
    runs: Iterable[AnyRun],
    magnitude: str | float | Fraction | Decimal = 6,
    *,
    families: Mapping[str, str] | None = None,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """Outliers, L%, S% and the largest feature's median magnitude of several runs, against size and perplexity.

    Dimension ``run``, ordered by family, then total and active parameters. Coordinates: ``family``,
    ``total_parameters``, ``active_parameters``, ``perplexity``: the axes. Attribute ``magnitude_text``: the exact
    decimal. Variables: ``outliers``,
    ``unique_features``, ``outliers_per_sequence``, ``mean_layer_percent``, ``mean_position_percent``;
    ``largest_feature``: the feature of the counted unit with the largest critical magnitude, -1 where nothing is
    counted, and ``critical_magnitude``, that unit's; ``median_magnitude``, of that feature's hits in all analysed
    sequences, NaN where there is none. Where each magnitude is answered by counts there are no critical magnitudes
    (NaN), and it is the unit with the largest peak.

    Where the median comes from: with ``details=True`` from the slices, the exact median of ``|x|`` over all hits in
    all cells. Otherwise from the peaks, which know only the largest ``|x|`` of a position over the cells: the median
    of that over the positions that hit, another number. Variable ``median_from`` says which. LLM.int8() gives
    "the median magnitude of the largest outlier feature" (Figure 4a) without saying how the largest is chosen.

    ``families`` names the family of a run by its label instead of ``family_of``. No line is fitted: a trend is a
    statement about models of one family. ``knobs`` as for ``outliers``; raises what ``answer`` raises.

    >>> seen = emergence(["runs/other.zarr", "runs/tiny.zarr"], 6)
    >>> seen.run.values.tolist(), seen.largest_feature.values.tolist(), seen.median_magnitude.values.tolist()
    (['tiny', 'other'], [2, 2], [8.0, 7.0])
    """
    found = answers(runs, magnitude, progress=progress, resources=resources, **knobs)
    if len(found[0]) > 1:
        raise InputError(f"--emergence shows one magnitude, not {len(found[0])}: ask for each by itself")
    return emergence_of([results[0] for results in found], families, progress, resources)


def emergence_of(
    firsts: Sequence[Result],
    families: Mapping[str, str] | None,
    progress: Progress,
    resources: Resources,
    medians: Sequence[Mapping[int, float | None]] = (),
) -> xr.Dataset:
    """The same of a result of each run, all at one magnitude; ``medians`` of each run's features, from peaks."""
    labels = run_labels([[first] for first in firsts])
    named = dict(families or {})
    if unknown := [name for name in named if name not in labels]:
        raise InputError(f"families names {unknown[0]!r}, which is no run here; they are: {', '.join(labels)}")
    kinds = [named.get(name) or family_of(first.info.model) for name, first in zip(labels, firsts, strict=True)]
    models = [first.info.model for first in firsts]
    order = sorted(
        range(len(firsts)),
        key=lambda i: (kinds[i], models[i].total_parameters, models[i].active_parameters, labels[i]),
    )
    columns: dict[str, list[Any]] = {}
    for i in order:
        for name, value in _measured(firsts[i], progress, resources, medians[i] if medians else {}).items():
            columns.setdefault(name, []).append(value)
    axes = {
        "family": [kinds[i] for i in order],
        "total_parameters": [models[i].total_parameters for i in order],
        "active_parameters": [models[i].active_parameters for i in order],
        "perplexity": columns.pop("perplexity"),
        "precision": [precision_words(firsts[i].info) for i in order],
    }
    about = definition_of_all(
        [firsts[i].plan for i in order], [labels[i] for i in order], decimal_text(firsts[0].magnitude)
    )
    return xr.Dataset(
        {name: ("run", values) for name, values in columns.items()},
        {"run": [labels[i] for i in order], **{name: ("run", values) for name, values in axes.items()}},
        {
            **about,
            "stores": [firsts[i].store for i in order],
            "magnitude": float(firsts[0].magnitude),
            "magnitude_text": decimal_text(firsts[0].magnitude),
            "excluded": left_out_cells(firsts, labels),
            "notes": [
                *comparison_notes([f.info for f in firsts], [f.plan for f in firsts], labels),
                *left_out_notes(firsts, labels),
            ],
        },
    )


def _measured(
    result: Result, progress: Progress, resources: Resources, medians: Mapping[int, float | None]
) -> dict[str, Any]:
    largest = next(result.features(1), None)
    if largest is None:
        median, where = np.nan, ""
    elif result.detail is None and (known := medians.get(largest.feature)) is not None:
        median, where = known, FROM_PEAKS
    else:
        median, where = median_magnitude(result, largest.feature, progress, resources)
    return {
        "perplexity": np.nan if result.perplexity.value is None else result.perplexity.value,
        "outliers": result.outliers,
        "unique_features": result.unique_features,
        "outliers_per_sequence": result.outliers_per_sequence,
        "mean_layer_percent": _or_nan(result.mean_layer_percent),
        "mean_position_percent": _or_nan(result.mean_position_percent),
        "largest_feature": -1 if largest is None else largest.feature,
        "critical_magnitude": np.nan if largest is None else _or_nan(largest.critical_magnitude),
        "median_magnitude": median,
        "median_from": where,
    }


def median_magnitude(
    result: Result, feature: int, progress: Progress = silent_progress, resources: Resources = DEFAULT_RESOURCES
) -> tuple[float, str]:
    """(median magnitude of the feature's hits, where it comes from): the slices where the result has details.

    Exact: the middle of the sorted bit patterns, or half way between the two middle values, rounded once.
    """
    plan, pattern = result.plan, result.plan.thresholds[result.threshold]
    run = Run(result.store)
    if result.detail is not None:
        from analyze.statistics.feature_hits import FeatureHits
        from analyze.statistics.measure import measure
        from analyze.statistics.selection import Selection

        hits = FeatureHits(feature, decimal_text(result.magnitude))
        chosen = plan.chosen
        selection = Selection(
            sites=plan.sites,
            layers=chosen.layers,
            sequences=plan.sequences,
            positions=(chosen.start, chosen.stop),
            tokens=chosen.tokens,
            in_gain_units=chosen.in_gain_units,
            partial=plan.partial,
        )
        return float(
            measure(run, [hits], selection, progress=progress, **resources.options())[hits.name]["median"]
        ), FROM_SLICES
    union = _union(run, plan)

    def measured() -> Numbers:
        held = [peaks.position[:, feature] for peaks in peak_source(run, union, progress, resources)()]
        values = np.concatenate(held)
        return {"median": np.array(median_of(np.sort(values[values >= pattern]), plan.encoding))}

    if union.count_engine == "peaks" or resources.skip_corrupt:  # quick, or not of all the data
        return float(measured()["median"]), FROM_PEAKS
    given = {"feature": feature, "pattern": pattern}
    return float(known_numbers(run, union, resources.cache, "median", measured, **given)["median"]), FROM_PEAKS


def _union(run: Run, plan: Plan) -> Plan:
    """The plan of position peaks alone: no coverage and no minimum changes them."""
    definition = replace(plan.question.definition, position_coverage="union", minimum_hits=ONE_HIT)
    return make_plan(run, replace(plan.question, definition=definition))


def median_of(ascending: npt.NDArray[Any], encoding: Encoding) -> float:
    """The median of some sorted sign-cleared patterns: exact, rounded once; infinity where it is."""
    low, high = (int(ascending[(ascending.size - 1 + up) // 2]) for up in (0, 1))
    if high >= encoding.infinity:
        return float("inf")
    return float((magnitude_value(low, encoding) + magnitude_value(high, encoding)) / 2)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
