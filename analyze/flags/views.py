"""Flags that ask for another table than that of the counts, each a call of the Python interface and a table of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from analyze.flags.passes import resources_of
from schemas.errors import InputError

if TYPE_CHECKING:
    from analyze.progress import Progress
    from analyze.tables.table import Table

__all__ = ["VIEW_EXAMPLES", "add_view_flags", "asked_views", "view_tables"]

VIEW_EXAMPLES = """\
  analyze --store runs/qwen3.zarr --magnitude 6 --null
  analyze --store runs/qwen3.zarr --magnitude 4,6,8 --saturation --format csv
  analyze --store runs/*.zarr --magnitude 6 --published
  analyze --store runs/*.zarr --magnitude 6 --definition llm-int8 --emergence
  analyze --diff runs/qwen3.zarr runs/qwen3.zarr --definition majority"""


def add_view_flags(parser: argparse.ArgumentParser) -> None:
    """The flags, in two groups."""
    chance = parser.add_argument_group("null and uncertainty").add_argument
    chance(
        "--null",
        nargs="?",
        type=_permutations,
        const=1_000,
        metavar="N",
        help="beside the counts those expected by chance: feature labels permuted in each tensor, N times (1000)",
    )
    chance("--overlap", action="store_true", help="how far sequences agree on which features are outliers (Jaccard)")
    chance("--saturation", action="store_true", help="whether the count grows with tokens: over 1, 2, ... sequences")
    between = parser.add_argument_group("between models").add_argument
    between("--published", action="store_true", help="the published row beside each measured one, and both protocols")
    between("--emergence", action="store_true", help="against parameters and perplexity, family by family")
    between("--diff", nargs=2, metavar=("A", "B"), help="what counts in one store and not in the other, and what moved")


def _permutations(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of permutations: write 1000")
    return int(text)


def asked_views(arguments: argparse.Namespace) -> list[str]:
    """Names of the views that were asked for, in order; none where the table of counts is."""
    return [name for name in _VIEWS if not (getattr(arguments, name) is None or getattr(arguments, name) is False)]


def view_tables(
    arguments: argparse.Namespace, stores: Sequence[str], knobs: Mapping[str, Any], progress: Progress
) -> list[Table]:
    """The tables of the views asked for. ``knobs``: those of ``analyze.ask``."""
    asked = asked_views(arguments)
    if arguments.features is not None and asked != ["diff"]:
        raise InputError(f"--features lists features of the counts, or of --diff; --{asked[0]} has none: leave it out")
    if not stores and (needing := [name for name in asked if name != "diff"]):
        raise InputError(f"--{needing[0]} needs stores: name them with --store")
    if stores and asked == ["diff"]:
        raise InputError("--diff A B names the two stores that it compares: leave out --store")
    options = {**knobs, "progress": progress, "resources": resources_of(arguments)}
    return [table for name in asked for table in _VIEWS[name](arguments, stores, options)]


View = Callable[[argparse.Namespace, Sequence[str], Mapping[str, Any]], "list[Table]"]


def _null(arguments: argparse.Namespace, stores: Sequence[str], options: Mapping[str, Any]) -> list[Table]:
    from analyze.chance.asking import null
    from analyze.chance.tables import null_table

    drawn = {"permutations": arguments.null, **options}
    found = [null(store, arguments.magnitude, **drawn) for store in stores]
    return _alike([null_table(found)], arguments, stores, options)


def _overlap(arguments: argparse.Namespace, stores: Sequence[str], options: Mapping[str, Any]) -> list[Table]:
    from analyze.chance.asking import overlap
    from analyze.chance.tables import overlap_table

    found = [overlap(store, arguments.magnitude, **options) for store in stores]
    return _alike([overlap_table(found)], arguments, stores, options)


def _saturation(arguments: argparse.Namespace, stores: Sequence[str], options: Mapping[str, Any]) -> list[Table]:
    from analyze.chance.asking import saturation
    from analyze.chance.tables import saturation_table

    found = [saturation(store, arguments.magnitude, **options) for store in stores]
    return _alike([saturation_table(found)], arguments, stores, options)


def _alike(
    tables: list[Table], arguments: argparse.Namespace, stores: Sequence[str], options: Mapping[str, Any]
) -> list[Table]:
    """The tables, with what keeps several stores from being compared like with like."""
    if len(stores) == 1:
        return tables
    from analyze.tables.likeness import with_likeness
    from analyze.tables.names import model_labels
    from analyze.thresholds.plan import make_plan
    from analyze.thresholds.question import ask
    from schemas.run import Run

    knobs = {name: value for name, value in options.items() if name not in ("progress", "resources")}
    question = ask(arguments.magnitude, **knobs)
    runs = [Run(store) for store in stores]
    infos = [run.info for run in runs]
    return with_likeness(tables, infos, [make_plan(run, question) for run in runs], model_labels(infos, stores))


def _published(arguments: argparse.Namespace, stores: Sequence[str], options: Mapping[str, Any]) -> list[Table]:
    from analyze.between.compare import answers
    from analyze.between.tables import published_tables

    found = answers(stores, arguments.magnitude, **options)
    return published_tables([result for results in found for result in results])


def _emergence(arguments: argparse.Namespace, stores: Sequence[str], options: Mapping[str, Any]) -> list[Table]:
    from analyze.between.emergence import emergence
    from analyze.between.tables import emergence_table

    return [emergence_table(emergence(stores, arguments.magnitude, **options))]


def _diff(arguments: argparse.Namespace, _: Sequence[str], options: Mapping[str, Any]) -> list[Table]:
    from analyze.between.difference import diff
    from analyze.between.tables import diff_tables

    one, other = arguments.diff
    return diff_tables(diff(one, other, arguments.magnitude, **options), arguments.features)


_VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "published": _published,
        "emergence": _emergence,
        "null": _null,
        "overlap": _overlap,
        "saturation": _saturation,
        "diff": _diff,
    }
)
