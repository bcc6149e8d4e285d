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
    from analyze.evaluation.part_of_store import PartOfStore, alike, in_units_of_gain
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
    from analyze.tables.names import model_labels
    from analyze.thresholds.question import site_names
    from schemas.errors import InputError
    from schemas.run import Run

    settings: dict[str, Any] = {
        "group_size": DEFAULT_GROUP_SIZE if arguments.group_size is None else arguments.group_size,
        "alpha": DEFAULT_ALPHA if arguments.alpha is None else arguments.alpha,
    }
    formats = quantisation_question(arguments.quantisation, **settings).formats  # before any store is opened
    for flag, name, of in (("group_size", "--group-size", "int8-absmax-group"), ("alpha", "--alpha", "llm-int8")):
        if getattr(arguments, flag) is not None and of not in formats:
            raise InputError(f"{name} is of {of} alone, which is not among these formats: leave it out, or add {of}")
    sites = None if arguments.sites is None else site_names(arguments.sites)
    part = PartOfStore(arguments.layers_range, arguments.positions_range, arguments.tokens)
    options = resources_of(arguments).options()
    runs = [Run(store) for store in arguments.store]
    names = model_labels([run.info for run in runs], [run.path for run in runs])
    selections = [part.selection(run, sites, arguments.partial, arguments.in_gain_units) for run in runs]
    tables = []
    for run, name, selection in zip(runs, names, selections, strict=True):
        progress = silent_progress if arguments.quiet else shown_progress
        found = quantisation_errors(run, arguments.quantisation, selection, progress=progress, **settings, **options)
        own = quantisation_tables(found, name, for_programs=arguments.format in ("json", "csv"))
        tables += [part.told(in_units_of_gain(one) if arguments.in_gain_units else one) for one in own]
    yield from render_tables(alike(tables, runs, selections, names), arguments.format)
