"""The command's flags for quantisation, and what they print; nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

__all__ = ["add_quantisation_flags", "quantisation_text"]


def add_quantisation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group to ``parser``; ``arguments.quantisation`` is None where it was not asked for."""
    add = parser.add_argument_group(
        "quantisation", "error of the activation at each site when it is held in few bits (docs/quantisation.md)"
    ).add_argument
    add(
        "--quantisation",
        nargs="?",
        const="all",
        metavar="FORMAT,...",
        help="a table of formats instead of outliers: mxfp4,nvfp4 and so on, or all (default)",
    )
    add("--group-size", metavar="N", help="features that share a scale in int8-absmax-group (default 128)")
    add("--alpha", metavar="M", help="magnitude from which llm-int8 keeps a column in 16 bits (default 6)")


def quantisation_text(arguments: argparse.Namespace) -> Iterator[str]:
    """What ``--quantisation`` prints of ``arguments``, in pieces."""
    from analyze.evaluation.part_of_store import PartOfStore, in_units_of_gain
    from analyze.flags.passes import resources_of
    from analyze.formats import render_tables
    from analyze.progress import shown_progress, silent_progress
    from analyze.quantisation.answer import (
        DEFAULT_ALPHA,
        DEFAULT_GROUP_SIZE,
        quantisation_errors,
        quantisation_question,
    )
    from analyze.quantisation.table import quantisation_tables
    from analyze.tables.names import model_name
    from analyze.thresholds.question import site_names
    from schemas.run import Run

    settings: dict[str, Any] = {
        "group_size": DEFAULT_GROUP_SIZE if arguments.group_size is None else arguments.group_size,
        "alpha": DEFAULT_ALPHA if arguments.alpha is None else arguments.alpha,
    }
    quantisation_question(arguments.quantisation, **settings)  # before any store is opened
    sites = None if arguments.sites is None else site_names(arguments.sites)
    part = PartOfStore(arguments.layers_range, arguments.positions_range, arguments.tokens)
    options = resources_of(arguments).options()
    runs = [Run(store) for store in arguments.store]
    models = [model_name(run.info) for run in runs]
    tables = []
    for run, model in zip(runs, models, strict=True):
        progress = silent_progress if arguments.quiet else shown_progress
        selection = part.selection(run, sites, arguments.partial, arguments.in_gain_units)
        found = quantisation_errors(run, arguments.quantisation, selection, progress=progress, **settings, **options)
        name = model if models.count(model) == 1 else f"{model} ({run.path})"
        own = quantisation_tables(found, name, for_programs=arguments.format in ("json", "csv"))
        tables += [part.told(in_units_of_gain(one) if arguments.in_gain_units else one) for one in own]
    yield from render_tables(tables, arguments.format)
