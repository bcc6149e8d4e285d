"""``outliers`` and ``sweep``: what the command answers, as xarray Datasets, with the units of every variable."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from analyze.opened import opened
from analyze.progress import Progress, silent_progress
from analyze.quantities import Magnitudes, decimal_text, magnitude_words
from analyze.resources import DEFAULT_RESOURCES, Resources
from analyze.statistics.cache import store_identity
from analyze.tables.wording import AS_WITHOUT_HITS, answered_words, definition_words
from analyze.thresholds.answers import answer, engine_advised, refuse_zero_with_nan, run_perplexity
from analyze.thresholds.bootstrap import mean_intervals
from analyze.thresholds.known_survival import known_survival, survives
from analyze.thresholds.plan import Plan, make_plan
from analyze.thresholds.question import Question, ask, knob_record
from analyze.thresholds.results import Result
from analyze.thresholds.survival import Survival
from schemas.errors import InputError
from schemas.run import Run, is_url

if TYPE_CHECKING:
    from schemas.perplexity import Perplexity

__all__ = ["AnyRun", "outliers", "sweep", "sweep_dataset"]

AnyRun = str | os.PathLike[str] | xr.Dataset | Run
"""A store by path or URL, what ``open_run`` returned, or an opened ``schemas.Run``."""

_KEPT = 4
_survivals: OrderedDict[tuple[Any, ...], tuple[Survival, Perplexity]] = OrderedDict()


def outliers(
    run: AnyRun,
    magnitude: str | float | Fraction | Decimal = 6,
    *,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """The counted units of one run at one magnitude, the largest critical magnitude first.

    ``knobs`` are those of ``analyze.ask``: ``definition``, ``layers``, ``positions``, ``sites``, ``engine``,
    ``details``, ``partial``, ``layer_unit``, ``scope``, ``position_coverage``, ``minimum_hits``, ``layers_range``,
    ``positions_range``, ``tokens`` and ``in_gain_units``, as the command takes them. ``resources`` are for passes over
    the slices, and ``progress`` shows them.

    Dimension ``unit`` has coordinates ``feature`` and, where the unit is a (sequence, feature) pair, ``sequence``.
    Variables of it: ``layer_percent`` and ``position_percent`` (0 to 100), ``peak`` and ``critical_magnitude`` (in
    the units of the hidden state, or of gain; NaN where each magnitude is answered by itself), and with details
    ``hits`` and ``one_sided``. Without it: ``outliers``, ``unique_features``, ``outliers_per_sequence`` with its
    bootstrap 95% ``outliers_per_sequence_interval`` (bound), ``outliers_by_sequence`` (analysed_sequence),
    ``mean_layer_percent``, ``mean_position_percent``, ``perplexity``
    and ``nonfinite_values``. NaN stands for what there is nothing to say about. Attributes: the definition, in knobs
    and in words; ``excluded``, what was left out as corrupt, and ``excluded_as``, what that means for shares, where
    something was; ``perplexity_unread``, why losses could not be read. Definitions: docs/definitions.md.
    Raises what ``answer`` raises.

    >>> found = outliers("runs/tiny.zarr", magnitude=6)
    >>> int(found.outliers), int(found.unique_features), found.feature.values.tolist()
    (3, 1, [2, 2, 2])
    >>> found.critical_magnitude.values.tolist()
    [9.0, 8.0, 7.0]
    >>> found = outliers("runs/tiny.zarr", 6, positions_range="1:", minimum_hits=2, position_coverage="density")
    >>> found.position_percent.values.tolist(), found.answered_from
    ([100.0, 100.0, 100.0], 'the slices, which --position-coverage density and --minimum-hits 2 and \
--positions-range 1: take')
    """
    question = ask(magnitude_words(magnitude), **knobs)
    if len(question.magnitudes) > 1:
        raise InputError(f"outliers() answers one magnitude, not {len(question.magnitudes)}: use sweep()")
    (result,) = answer(opened(run).path, question, progress, resources)
    summary = sweep_dataset([result]).isel(magnitude=0)
    units = list(result.features())
    coordinates: dict[str, Any] = {"feature": ("unit", np.array([u.feature for u in units], np.int64))}
    if result.plan.question.definition.unit == "sequence-feature":
        coordinates["sequence"] = ("unit", np.array([u.sequence for u in units], np.int64))
    magnitudes = summary.magnitude.attrs["units"]
    variables: dict[str, Any] = {
        name: ("unit", np.array([getattr(u, name) for u in units], np.float64), {"units": unit})
        for name, unit in (
            ("layer_percent", "%"),
            ("position_percent", "%"),
            ("peak", magnitudes),
            ("critical_magnitude", magnitudes),
        )
    }
    if result.detail is not None:
        variables["hits"] = ("unit", np.array([u.hits for u in units], np.int64))
        variables["one_sided"] = ("unit", np.array([u.one_sided for u in units], np.bool_))
    return summary.assign(variables).assign_coords(coordinates)


def sweep(
    run: AnyRun,
    magnitudes: Magnitudes = "2:12:0.25",
    *,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """Counts of one run at every magnitude given, in the order given: a range as text, or any numbers.

    A decimal in text (``"6.1"``, ``"2:12:0.25"``) is taken exactly, a float as the shortest decimal that reads back
    as it. ``knobs``, ``progress`` and ``resources`` as for ``outliers``. Dimensions: ``magnitude``,
    ``analysed_sequence`` (the coordinate says which), ``bound`` (low, high). Variables: those of ``outliers`` that
    have no unit.

    The first question of a kind takes a pass over the peaks and keeps what it found (under 2 MB) in this process and
    beside the store, unless ``resources`` have no cache; any other magnitudes are then answered without reading the
    store's peaks again, while its files are the same. Of a store on a web server, which gives no list of its files,
    nothing is kept. Definitions that look across sequences (``majority``), float32 stores and the slices are answered
    by a pass each time. Both ways give the same digits. Raises what ``answer`` raises.

    >>> sweep("runs/tiny.zarr", [6, 7.5, 100]).outliers.values.tolist()
    [3, 2, 0]
    """
    question = ask(magnitude_words(magnitudes), **knobs)
    store = opened(run)
    plan = make_plan(store, question)
    if not survives(plan):
        return sweep_dataset(answer(store.path, question, progress, resources))
    with engine_advised(store, plan, resources):
        found, of_losses = _survival(plan, store, resources)
    return _survived(plan, found, of_losses, store, question)


def _survival(plan: Plan, store: Run, resources: Resources) -> tuple[Survival, Perplexity]:
    """What is kept for this question of the store whose files are those of now, or taken anew."""
    cache = resources.cache
    identity = store_identity(store.path) if cache else None
    state = (store.info.created, store.info.corpus.token_sha256, plan.sequences)  # as ``store`` was opened
    place = store.path if is_url(store.path) else os.path.realpath(store.path)
    key = (place, identity, state, replace(plan.question, magnitudes=()))
    if identity is not None and key in _survivals:
        _survivals.move_to_end(key)
        return _survivals[key]
    survival = known_survival(store, plan, cache=cache, least=1)
    assert survival is not None
    found = survival, run_perplexity(store, plan, skip_corrupt=resources.skip_corrupt)
    unchanged = identity is not None and store_identity(store.path) == identity
    if unchanged and not found[1].unread:
        _survivals[key] = found
        while len(_survivals) > _KEPT:
            _survivals.popitem(last=False)
    return found


def _survived(plan: Plan, found: Survival, perplexity: Perplexity, store: Run, question: Question) -> xr.Dataset:
    refuse_zero_with_nan(store, plan, found.nonfinite)
    of = np.asarray(plan.threshold_of)
    by_sequence = found.by_sequence(plan.thresholds)
    different, same = np.unique(by_sequence, axis=1, return_inverse=True)  # many thresholds count the same features
    intervals = mean_intervals(different)
    percents = found.mean_percents(plan.thresholds)
    return _dataset(
        plan,
        store.path,
        question.magnitudes,
        outliers=found.outliers(plan.thresholds)[of],
        unique_features=found.unique_features(plan.thresholds)[of],
        by_sequence=by_sequence[:, of].T,
        intervals=[intervals[i] for i in same.ravel()[of]],
        percents=[percents[i] for i in of],
        nonfinite=found.nonfinite,
        perplexity=perplexity,
        model=store.info.model.name,
    )


def sweep_dataset(results: Sequence[Result]) -> xr.Dataset:
    """The results of one store at one or more magnitudes as the Dataset that ``sweep`` returns."""
    first = results[0]
    return _dataset(
        first.plan,
        first.store,
        [r.magnitude for r in results],
        outliers=np.array([r.outliers for r in results], np.int64),
        unique_features=np.array([r.unique_features for r in results], np.int64),
        by_sequence=np.array([r.by_sequence for r in results], np.int64),
        intervals=[r.interval for r in results],
        percents=[(r.mean_layer_percent, r.mean_position_percent) for r in results],
        nonfinite=first.nonfinite,
        perplexity=first.perplexity,
        model=first.info.model.name,
        excluded=first.excluded,
    )


def _dataset(
    plan: Plan,
    store: str,
    magnitudes: Sequence[Fraction],
    *,
    outliers: Any,
    unique_features: Any,
    by_sequence: Any,
    intervals: Sequence[tuple[float, float] | None],
    percents: Sequence[tuple[float | None, float | None]],
    nonfinite: int,
    perplexity: Perplexity,
    model: str,
    excluded: Sequence[str] = (),
) -> xr.Dataset:
    nothing = (np.nan, np.nan)
    limits = np.array([nothing if interval is None else interval for interval in intervals], np.float64)
    means = np.array(percents, np.float64).reshape(-1, 2)
    question = plan.question
    units = "gain" if question.in_gain_units else "hidden state"
    magnitude = decimal_text(magnitudes[0]) if len(magnitudes) == 1 else "the magnitude"
    return xr.Dataset(
        {
            "outliers": ("magnitude", outliers),
            "unique_features": ("magnitude", unique_features),
            "outliers_by_sequence": (("magnitude", "analysed_sequence"), by_sequence),
            "outliers_per_sequence": ("magnitude", [sum(row) / len(row) for row in by_sequence.tolist()]),
            "outliers_per_sequence_interval": (("magnitude", "bound"), limits),
            "mean_layer_percent": ("magnitude", means[:, 0], {"units": "%"}),
            "mean_position_percent": ("magnitude", means[:, 1], {"units": "%"}),
            "nonfinite_values": ((), nonfinite),
            "perplexity": ((), np.nan if perplexity.value is None else perplexity.value),
        },
        {
            "magnitude": ("magnitude", [float(m) for m in magnitudes], {"units": units}),
            "analysed_sequence": ("analysed_sequence", list(plan.sequences)),
            "bound": ["low", "high"],
        },
        {
            "store": store,
            "model": model,
            "definition": question.definition.preset,
            "unit": question.definition.unit,
            "layers": question.layers.text,
            "positions": question.positions.text,
            "sites": list(plan.sites),
            "layers_total": plan.layers_total,
            "layers_needed": plan.layers_needed,
            "positions_total": plan.positions_total,
            "positions_needed": plan.positions_at_least,
            "layer_unit": question.definition.layer_unit,
            "scope": question.definition.scope,
            **knob_record(question),
            "words": definition_words(plan, magnitude),
            "answered_from": answered_words(plan),
            **({"excluded": list(excluded), "excluded_as": AS_WITHOUT_HITS} if excluded else {}),
            **({"perplexity_unread": perplexity.unread} if perplexity.unread else {}),
        },
    )
