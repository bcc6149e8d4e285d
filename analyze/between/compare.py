"""``compare``: several runs in the columns of the published table, with what keeps them from being like with like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from analyze.between.protocol import protocol_aspects
from analyze.between.published import PublishedRow, find_published
from analyze.opened import path_of, require_distinct
from analyze.progress import Progress, silent_progress
from analyze.quantities import Magnitudes, decimal_text, magnitude_words
from analyze.resources import DEFAULT_RESOURCES, Resources
from analyze.tables.definition_columns import definition_of_all
from analyze.tables.likeness import comparison_notes, precision_words
from analyze.tables.names import label, store_names
from analyze.thresholds.answers import answer
from analyze.thresholds.asking import AnyRun, sweep_dataset
from analyze.thresholds.question import ask
from analyze.thresholds.results import Result
from schemas.errors import InputError

__all__ = ["answers", "compare", "left_out_cells", "left_out_notes", "run_labels"]

_FACTS = (
    "total_parameters",
    "active_parameters",
    "experts",
    "shared_experts",
    "top_k",
    "layers",
    "hidden_size",
)


def answers(
    runs: Iterable[AnyRun], magnitudes: Magnitudes, *, progress: Progress, resources: Resources, **knobs: Any
) -> list[list[Result]]:
    """For each run the results at each magnitude; raises InputError where there is no run, or one twice."""
    paths = [path_of(run) for run in ([runs] if isinstance(runs, str) else runs)]
    if not paths:
        raise InputError("no runs were given: name at least one store")
    require_distinct(paths)
    question = ask(magnitude_words(magnitudes), **knobs)
    return [answer(path, question, progress, resources) for path in paths]


def run_labels(found: Sequence[Sequence[Result]]) -> list[str]:
    """A name for each run: its model's, and its store's where two models share one."""
    firsts = [results[0] for results in found]
    names = store_names(firsts)
    return [label(first, names) for first in firsts]


def left_out_cells(firsts: Sequence[Result], labels: Sequence[str]) -> list[str]:
    """Which cells of each run could not be read and were skipped: ``tiny: ln_mlp of layer 1, sequence 0``."""
    return [f"{name}: {cell}" for first, name in zip(firsts, labels, strict=True) for cell in first.excluded]


def left_out_notes(firsts: Sequence[Result], labels: Sequence[str]) -> list[str]:
    """A sentence for each run of which cells were left out because they could not be read, and of its perplexity."""
    told = []
    for first, name in zip(firsts, labels, strict=True):
        if first.excluded:
            told.append(f"{name}: left out as corrupt: {'; '.join(first.excluded)}.")
        if first.perplexity.unread:
            told.append(f"{name}: perplexity left out: {first.perplexity.unread}.")
    return told


def compare(
    runs: Iterable[AnyRun],
    magnitudes: Magnitudes = 6,
    *,
    published: bool = False,
    progress: Progress = silent_progress,
    resources: Resources = DEFAULT_RESOURCES,
    **knobs: Any,
) -> xr.Dataset:
    """Several runs side by side at one or more magnitudes, under one definition.

    Dimensions ``run`` (coordinate: the model's name, with the store's where models share one), ``magnitude``,
    ``bound``. Variables (run, magnitude): ``outliers``, ``unique_features``, ``outliers_per_sequence`` with its
    ``_interval``, ``mean_layer_percent``, ``mean_position_percent`` (0 to 100, NaN where nothing is counted). Of each
    run: ``store``, ``model``, ``total_parameters``, ``active_parameters``, ``experts``, ``shared_experts``, ``top_k``
    (NaN where there are none), ``layers``, ``hidden_size``, ``routing``, ``precision`` (computed/stored),
    ``perplexity``, ``tokens`` analysed and ``token_sha256``. ``published`` adds ``published_outliers`` and the other
    columns of the published row where there is one, and as attribute ``protocol`` a list of
    "model: aspect: published; here". Attribute ``notes``: sentences that say what keeps these runs from being
    compared like with like; empty where nothing does. The other attributes are the definition's knobs and, in words,
    what they ask and where the answers came from, naming the runs that differ. ``knobs`` as for ``outliers``. Raises
    what ``answer`` raises.

    >>> both = compare(["runs/tiny.zarr", "runs/other.zarr"], 7)
    >>> both.run.values.tolist(), both.outliers.values.ravel().tolist()
    (['tiny', 'other'], [3, 2])
    """
    found = answers(runs, magnitudes, progress=progress, resources=resources, **knobs)
    labels = run_labels(found)
    firsts = [results[0] for results in found]
    sweeps = [
        sweep_dataset(results).drop_vars(["outliers_by_sequence", "analysed_sequence", "nonfinite_values"])
        for results in found
    ]
    together = xr.concat([one.drop_attrs(deep=False) for one in sweeps], "run", coords="minimal", compat="override")
    models = [first.info.model for first in firsts]
    dataset = together.assign_coords(run=labels).assign(
        {
            "store": ("run", [first.store for first in firsts]),
            "model": ("run", [model.name for model in models]),
            **{name: ("run", [_number(getattr(model, name)) for model in models]) for name in _FACTS},
            "routing": ("run", [model.routing or "" for model in models]),
            "precision": ("run", [precision_words(first.info) for first in firsts]),
            "sequences": ("run", [len(first.plan.sequences) for first in firsts]),
            "tokens": ("run", [sum(first.plan.positions_of) for first in firsts]),
            "token_sha256": ("run", [first.info.corpus.token_sha256 for first in firsts]),
        }
    )
    notes = comparison_notes([first.info for first in firsts], [first.plan for first in firsts], labels)
    notes += left_out_notes(firsts, labels)
    magnitude = decimal_text(firsts[0].magnitude) if len(found[0]) == 1 else "the magnitude"
    dataset.attrs = {**definition_of_all([first.plan for first in firsts], labels, magnitude), "notes": notes}
    return _with_published(dataset, firsts, labels) if published else dataset


def _with_published(dataset: xr.Dataset, firsts: Sequence[Result], labels: Sequence[str]) -> xr.Dataset:
    rows = [find_published(first.info.model) for first in firsts]
    protocol = [
        f"{name}: {aspect.name}: published: {aspect.published}; here: {aspect.here}; same: {aspect.same}"
        for row, first, name in zip(rows, firsts, labels, strict=True)
        if row is not None
        for aspect in protocol_aspects(row, first.info, first.plan)
    ]

    def column(name: str) -> tuple[str, list[float]]:
        return "run", [_number(None if row is None else getattr(row, name)) for row in rows]

    names = ("outliers", "mean_layer_percent", "mean_position_percent", "perplexity", "experts", "top_k")
    return dataset.assign(
        {
            **{f"published_{name}": column(name) for name in names},
            "published_in": ("run", ["" if row is None else row.protocol.source for row in rows]),
        }
    ).assign_attrs(protocol=protocol, corrections=_corrections(rows))


def _corrections(rows: Iterable[PublishedRow | None]) -> list[str]:
    return [row.correction for row in rows if row is not None and row.correction is not None]


def _number(value: float | None) -> float:
    return np.nan if value is None else value
