"""``overview``: all that a report or a figure shows of some runs, in one object."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from importlib import metadata
from typing import Any

import numpy as np
import xarray as xr

from analyze.between.emergence import emergence_of
from analyze.chance.asking import drawn_tokens, growth_numbers, saturation
from analyze.chance.growth import first_met
from analyze.chance.levels import MAX_LEVELS
from analyze.opened import path_of
from analyze.overviews.features import feature_views, listed_features
from analyze.overviews.ladders import climb
from analyze.overviews.lattice import (
    LEAST_LAYERS,
    LEAST_POSITIONS,
    by_sequence,
    least_question,
    share_steps,
    take_lattice,
)
from analyze.overviews.results import (
    Absent,
    Asked,
    Emergence,
    Overview,
    Saturation,
    StoreFacts,
    StoreView,
    SweepPoint,
)
from analyze.overviews.sliced import curves, position_profile, quantisation_view, unless_absent
from analyze.progress import Progress, silent_progress
from analyze.quantities import Magnitudes, decimal_text, magnitude_words
from analyze.resources import DEFAULT_RESOURCES, Resources
from analyze.tables.columns import MODEL_COLUMNS, RUN_COLUMNS
from analyze.tables.likeness import comparison_notes
from analyze.tables.names import compared
from analyze.tables.wording import definition_words, notes, shares_words, words_of_all
from analyze.thresholds.answers import answer_and_least, peak_source
from analyze.thresholds.asking import AnyRun
from analyze.thresholds.plan import Plan
from analyze.thresholds.question import Question, ask
from analyze.thresholds.results import Result
from analyze.thresholds.tally import Tally
from schemas.errors import InputError
from schemas.run import Run, is_url, store_bytes

__all__ = ["MAX_MAGNITUDES", "answered_overview", "overview"]

MAX_MAGNITUDES = 256
"""Most magnitudes of one overview."""

FEATURES = 24
_DEFAULT_CHOSEN = Fraction(6)


def overview(
    runs: AnyRun | Iterable[AnyRun],
    magnitudes: Magnitudes = "2:12:0.25",
    *,
    chosen: str | float | Fraction | None = None,
    features: int = FEATURES,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> Overview:
    """All that a report or a figure shows of one or several runs: see ``analyze.overviews.results``.

    ``chosen``: the magnitude that is looked at first, and at which features are looked at closely; without it the one
    nearest to 6 where anything counts there in any run, else the largest at which something does. ``features``: how
    many are looked at closely in each run. ``knobs`` as for ``outliers``; ``engine="peaks"`` leaves out what takes a
    pass over the slices. What is not there is ``Absent``, with the reason. Raises InputError for more than 256
    magnitudes or details, and what ``answer`` raises.

    >>> seen = overview("runs/tiny.zarr", "6:9:1")
    >>> [(point.magnitude, point.outliers) for point in seen.stores[0].sweep]
    [('6', 3), ('7', 3), ('8', 2), ('9', 1)]
    >>> seen.stores[0].features[0].feature, seen.stores[0].features[0].experts.absent[:24]
    (2, 'The model has no experts')
    """
    return answered_overview(
        runs, magnitudes, chosen=chosen, features=features, progress=progress, resources=resources, **knobs
    )[0]


def answered_overview(
    runs: AnyRun | Iterable[AnyRun],
    magnitudes: Magnitudes,
    *,
    chosen: str | float | Fraction | None = None,
    features: int = FEATURES,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> tuple[Overview, list[Result]]:
    """The same, and the answers that it rests on, by run and ascending magnitude."""
    one = isinstance(runs, str | os.PathLike | Run | xr.Dataset)
    paths = [path_of(run) for run in ([runs] if one else runs)]  # type: ignore[union-attr, arg-type]
    question = _question(paths, magnitudes, knobs)
    wanted = _wanted(question, chosen)
    layer_shares, layer_share = share_steps(question.layers, LEAST_LAYERS)
    position_shares, position_share = share_steps(question.positions, LEAST_POSITIONS)
    least = least_question(question, layer_shares[0], position_shares[0])
    answers = [answer_and_least(path, question, by_sequence(least), progress, resources) for path in paths]
    results = [found for found, _ in answers]
    infos, plans, labels = compared([found[0] for found in results])
    place, because = wanted or _opening(question, results)
    stores = []
    for path, (found, held), label in zip(paths, answers, labels, strict=True):
        run, plan = Run(path), found[0].plan
        lattice = take_lattice(run, question, least, held.units, progress, resources)
        tally = found[0].tally
        assert tally is not None  # features were asked for
        listed = listed_features(tally.units, lattice.pairs, plan.thresholds[0], features)
        stores.append(
            StoreView(
                facts=_facts(run, found[0], label),
                sweep=tuple(_point(result) for result in found),
                coverage=lattice.coverage(
                    position_shares,
                    climb(plan, layer_shares, position_shares, peak_source(run, plan, progress, resources)),
                    [one.feature for one in listed],
                ),
                phase=lattice.phase_map(),
                features=feature_views(run, question, listed, progress, resources),
                curves=unless_absent(lambda: curves(run, plan, progress, resources)),  # noqa: B023
                positions=unless_absent(lambda: position_profile(run, plan, progress, resources)),  # noqa: B023
                saturation=unless_absent(lambda: _saturation(run, tally, plan, knobs, progress, resources)),  # noqa: B023
                quantisation=unless_absent(
                    lambda: quantisation_view(run, plan, label, progress, resources)  # noqa: B023
                ),
            )
        )
    definition = question.definition
    asked = Asked(
        definition=definition.preset,
        source=definition.source,
        unit=definition.unit,
        layer_unit=definition.layer_unit,
        scope=definition.scope,
        position_coverage=definition.position_coverage,
        layers=question.layers.text,
        positions=question.positions.text,
        engine=question.engine,
        by_count=plans[0].by_count,
        in_gain_units=question.in_gain_units,
        magnitudes=tuple(decimal_text(m) for m in question.magnitudes),
        chosen=place,
        chosen_because=because,
        layer_shares=layer_shares,
        layer_share=layer_share,
        position_shares=position_shares,
        position_share=position_share,
        words=words_of_all([definition_words(plan, "the magnitude") for plan in plans], labels),
        notes=tuple(notes([result for found in results for result in found])),
    )
    medians = [{view.feature: view.median_magnitude[place] for view in store.features} for store in stores]
    seen = Overview(
        made_by=f"outlier-features {metadata.version('outlier-features')}",
        asked=asked,
        stores=tuple(stores),
        emergence=_emergence([found[place] for found in results], medians, progress, resources),
        notes=tuple(comparison_notes(infos, plans, labels)),
    )
    return seen, [result for found in results for result in found]


def _question(paths: Sequence[str], magnitudes: Magnitudes, knobs: dict[str, Any]) -> Question:
    """The question with its magnitudes ascending."""
    question = ask(magnitude_words(magnitudes), **knobs)
    if not paths:
        raise InputError("no runs were given: name at least one store")
    if len(set(paths)) < len(paths):
        raise InputError(f"{next(p for p in paths if paths.count(p) > 1)} is given twice: name each store once")
    if len(question.magnitudes) > MAX_MAGNITUDES:
        raise InputError(
            f"a report at {len(question.magnitudes):,} magnitudes; the limit is {MAX_MAGNITUDES}: take a larger step"
        )
    if question.details:
        raise InputError("--details is a table of its own, not part of a report: leave it out")
    return replace(question, magnitudes=tuple(sorted(question.magnitudes)))


def _wanted(question: Question, chosen: str | float | Fraction | None) -> tuple[int, str] | None:
    """The place of the magnitude chosen, and why it; None where none is.

    Raises InputError for one that is not among the question's.
    """
    if chosen is None:
        return None
    wanted = ask(magnitude_words(chosen)).magnitudes[0]
    if wanted not in question.magnitudes:
        raise InputError(
            f"magnitude {decimal_text(wanted)} is not among those of the overview: choose one of "
            f"{', '.join(decimal_text(m) for m in question.magnitudes[:12])}"
        )
    return question.magnitudes.index(wanted), f"magnitude {decimal_text(wanted)}, as it was asked for"


def _opening(question: Question, results: Sequence[Sequence[Result]]) -> tuple[int, str]:
    """The place of the magnitude to look at first, and why it: a page that opens on nothing shows nothing."""
    magnitudes = question.magnitudes
    nearest = min(range(len(magnitudes)), key=lambda i: abs(magnitudes[i] - _DEFAULT_CHOSEN))
    counting = [i for i in range(len(magnitudes)) if any(found[i].outliers for found in results)]
    text = decimal_text(magnitudes[nearest])
    if not counting:
        return nearest, f"magnitude {text}: nothing counts at any of those asked"
    if nearest in counting:
        return nearest, f"magnitude {text}{'' if magnitudes[nearest] == _DEFAULT_CHOSEN else ', the nearest to 6'}"
    largest = decimal_text(magnitudes[counting[-1]])
    return counting[-1], f"magnitude {largest}, the largest at which something counts: nothing does at {text}"


def _facts(run: Run, result: Result, label: str) -> StoreFacts:
    plan, info = result.plan, run.info
    arrays = [run.array(name) for name in sorted(run.group.array_keys())]
    return StoreFacts(
        path=run.path,
        name=info.model.name,
        label=label,
        model=info.model.model_dump(mode="json"),
        model_words={column.heading: column.text(result) for column in (*MODEL_COLUMNS, *RUN_COLUMNS)},
        provenance=info.model_dump(mode="json", exclude={"model"}),
        retention=str(run.retention),
        bytes_on_disk=None if is_url(run.path) else store_bytes(run.path),
        raw_bytes=sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays),
        sequences_in_store=run.dimensions.sequences,
        sequences_complete=len(run.complete_sequences()),
        sequences=plan.sequences,
        layers=plan.chosen.layers,
        sites=plan.sites,
        features=run.dimensions.features,
        layers_total=plan.layers_total,
        layers_needed=plan.layers_needed,
        positions_total=plan.positions_total,
        positions_needed=plan.positions_at_least,
        positions_by_sequence=plan.positions_of,
        sequences_needed=plan.sequences_needed,
        answered_from=plan.answered_from,
        shares_words=shares_words(plan),
        perplexity=result.perplexity.value,
        nonfinite_values=result.nonfinite,
        excluded_cells=result.excluded,
    )


def _point(result: Result) -> SweepPoint:
    return SweepPoint(
        magnitude=decimal_text(result.magnitude),
        outliers=result.outliers,
        unique_features=result.unique_features,
        outliers_per_sequence=result.outliers_per_sequence,
        interval=result.interval,
        mean_layer_percent=result.mean_layer_percent,
        mean_position_percent=result.mean_position_percent,
    )


def _saturation(
    run: Run, tally: Tally, plan: Plan, knobs: dict[str, Any], progress: Progress, resources: Resources
) -> Saturation:
    """Growth with sequences, from what each meets alone; where that does not say it, by another pass."""
    question = plan.question
    if question.definition.scope == "pooled" or len(plan.thresholds) > MAX_LEVELS:
        magnitudes = ",".join(decimal_text(m) for m in question.magnitudes)
        found = saturation(run, magnitudes, progress=progress, resources=resources, **knobs)
        return Saturation(
            tokens=tuple(found.tokens.values.tolist()),
            unique_features=tuple(map(tuple, found.unique_features.values.tolist())),
            interval=tuple(tuple((low, high) for low, high in rows) for rows in found.unique_interval.values.tolist()),
            outliers=tuple(map(tuple, found.outliers.values.tolist())),
        )
    met = np.stack([tally.met_alone(t, pattern) for t, pattern in enumerate(plan.thresholds)], axis=2)
    held = growth_numbers(met, first_met(plan, met))
    unique, interval, outliers = (held[name].tolist() for name in ("unique_features", "unique_interval", "outliers"))
    return Saturation(
        tokens=drawn_tokens(plan),
        unique_features=tuple(tuple(unique[t]) for t in plan.threshold_of),
        interval=tuple(tuple((low, high) for low, high in interval[t]) for t in plan.threshold_of),
        outliers=tuple(tuple(outliers[t]) for t in plan.threshold_of),
    )


def _emergence(
    firsts: Sequence[Result],
    medians: Sequence[Mapping[int, float | None]],
    progress: Progress,
    resources: Resources,
) -> Emergence | Absent:
    if len(firsts) < 2:
        return Absent("Emergence is seen between models: name several stores.")
    found = unless_absent(lambda: emergence_of(firsts, None, progress, resources, medians))
    if isinstance(found, Absent):
        return found
    names = tuple(str(name) for name in (*found.coords, *found.data_vars))
    columns = [found[name].values.tolist() for name in names]
    return Emergence(
        magnitude=decimal_text(firsts[0].magnitude),
        names=names,
        rows=tuple(zip(*columns, strict=True)),
        median_from=tuple(dict.fromkeys(words for words in found.median_from.values.tolist() if words)),
    )
