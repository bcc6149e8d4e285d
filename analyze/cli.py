"""The ``analyze`` command. Everything but the parser is imported when it is needed, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence

from analyze.criteria import criterion_names
from analyze.flags.knobs import KNOBS, PART_KNOBS, RULE_KNOBS, add_knob_flags
from analyze.flags.overview import OVERVIEW_EXAMPLES, add_overview_flags, written_overview
from analyze.flags.passes import add_pass_flags, resources_of
from analyze.flags.views import VIEW_EXAMPLES, add_view_flags, asked_views, view_tables
from analyze.formats import FORMATS
from analyze.quantisation.flags import add_quantisation_flags
from analyze.thresholds.definitions import DEFAULT_DEFINITION, DEFINITIONS

__all__ = ["build_parser", "main"]

BY = ("layer", "position", "expert")

_DESCRIPTION = """\
Count systematic outlier features in run stores that capture made: features whose magnitude reaches --magnitude in
a share of the layers and at a share of the positions. Reads the store only: no model, no GPU. Any magnitude, share
or definition can be asked of the same store."""

_EXAMPLES = """\
definitions (docs/definitions.md):
  moe-table        (sequence, feature) pairs, summed over sequences; a layer is a (site, layer) cell
  llm-int8         features, over all tokens pooled; a layer is a cell
  llm-int8-block   features, over all tokens pooled; a layer is a block, hit if any of its sites is
  majority         features that meet moe-table's rule in at least half of the sequences

examples:
  analyze --store runs/qwen3.zarr --magnitude 6
  analyze --store runs/*.zarr --magnitude 6 --format markdown
  analyze --store runs/qwen3.zarr --magnitude 2:12:0.25 --format csv > sweep.csv
  analyze --store runs/qwen3.zarr --magnitude 6 --definition llm-int8 --layers 50% --positions 1/4
  analyze --store runs/qwen3.zarr --magnitude 6 --details --features 25
  analyze --store runs/qwen3.zarr --magnitude 6 --engine slices --format json
  analyze --store runs/qwen3.zarr --magnitude 6 --positions-range 1: --position-coverage density
  analyze --store runs/qwen3.zarr --criteria massive,kurtosis
  analyze --store runs/qwen3.zarr --criteria all --by layer --format csv > criteria.csv
  analyze --store runs/qwen3.zarr --magnitude 6 --by position
  analyze --store runs/qwen3.zarr --info
  analyze --store runs/qwen3.zarr --quantisation
  analyze --store runs/qwen3.zarr --quantisation llm-int8,mxfp4 --alpha 5 --format csv > quantisation.csv
{views}

exit status: 0 answered, 1 failed, 2 input that cannot be used, 130 interrupted"""


_KNOBS = ("layers", "positions", "definition", "sites", "engine", "details", "partial", *KNOBS)
"""Flags that are parameters of ``analyze.ask``, by that name."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="analyze",
        usage="analyze --store PATH [PATH ...] [--magnitude M] [options]   (analyze --help lists them)",
        description=_DESCRIPTION,
        epilog=_EXAMPLES.format(views=f"{VIEW_EXAMPLES}\n{OVERVIEW_EXAMPLES}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--store", nargs="+", action="extend", metavar="PATH", help="run stores, a row each; runs/*.zarr for several")
    add("--info", action="store_true", help="what the store is, how much of it is there, and what it can answer")
    add("--magnitude", default="6", metavar="M", help="6 (default), a list 4,6,8, or a range START:STOP:STEP")
    add("--layers", default="25%", metavar="SHARE", help="least share of layers (default 25%%)")
    add("--positions", default="6%", metavar="SHARE", help="least share of positions (default 6%%)")
    add(
        "--definition",
        default=DEFAULT_DEFINITION,
        choices=tuple(DEFINITIONS),
        help=f"what is counted; see below (default {DEFAULT_DEFINITION})",
    )
    add(
        "--sites",
        metavar="SITE,...",
        help="sites to look at (default: all that the store holds but the residual, each tensor once)",
    )
    add(
        "--engine",
        default="auto",
        choices=("auto", "peaks", "slices"),
        help="answer from the stored peaks (default), or anew from the slices: slower, the same numbers",
    )
    add("--details", action="store_true", help="also hits, ties, one-sided features, quartiles: a pass over the slices")
    add("--partial", action="store_true", help="of a store that is not finished, analyse the complete sequences")
    add("--format", default="table", choices=tuple(FORMATS), help="how to print the answer (default table)")
    add(
        "--features",
        type=_feature_count,
        metavar="N",
        help="list the N features with the largest critical magnitude, or all; 0 for none",
    )
    add_knob_flags(parser)
    group = parser.add_argument_group("other criteria, and where large values are (from the slices)").add_argument
    group(
        "--criteria",
        metavar="NAME,...",
        help=f"instead of counting outliers, evaluate all or some of: {', '.join(criterion_names())}",
    )
    group("--by", choices=BY, help="hits at --magnitude by layer, position or expert; or with --criteria, by layer")
    add_quantisation_flags(parser)
    add_pass_flags(parser)
    add("-q", "--quiet", action="store_true", help="no progress on stderr")
    add_view_flags(parser)
    add_overview_flags(parser)
    return parser


def _feature_count(text: str) -> int:
    if text == "all":
        return sys.maxsize
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of features: write 25, 0 or all")
    return int(text)


def _with_negative_values(argv: Sequence[str]) -> list[str]:
    """``--flag -2:3:1`` as ``--flag=-2:3:1``: argparse takes the value for a flag and would not say what is wrong."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in ("--magnitude", "--layers", "--positions") and re.match(r"-[0-9.]", word):
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (default: the process's own); returns its exit status."""
    parser = build_parser()
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = parser.parse_args(_with_negative_values(words))
        if not arguments.store and not arguments.diff:
            parser.error("the following arguments are required: --store")
    except SystemExit as leaving:
        return int(leaving.code or 0)
    from schemas.command import run_command

    return run_command("analyze", lambda: _run(arguments), words)


def _run(arguments: argparse.Namespace) -> int:
    for piece in _pieces(arguments):
        sys.stdout.write(piece)
    sys.stdout.flush()
    return 0


def _pieces(arguments: argparse.Namespace) -> Iterator[str]:
    from analyze.flags.stores import expanded

    arguments.store = expanded(arguments.store or ())
    if arguments.info:
        return _info(arguments)
    if asked_views(arguments):
        return _views(arguments)
    if arguments.quantisation is not None:
        return _quantisation(arguments)
    _refuse(arguments, _OF_QUANTISATION, "goes with --quantisation: add that, or leave it out")
    if arguments.criteria is not None or arguments.by is not None:
        _refuse(arguments, ("report",), "has these tables already: leave out --criteria or --by, or --report")
        _refuse(arguments, ("plots",), "goes with a definition of outliers: leave out --criteria or --by, or --plots")
        return _tables(arguments)
    return _results(arguments)


def _info(arguments: argparse.Namespace) -> Iterator[str]:
    """What --info answers."""
    others = [name for name in vars(arguments) if name not in ("store", "info", "format", "quiet")]
    _refuse(arguments, others, "is another question than --info: leave one of them out")
    from analyze.formats import render_tables
    from analyze.inventory.store import info
    from analyze.inventory.tables import info_tables

    return render_tables(info_tables([info(store) for store in arguments.store]), arguments.format)


_OF_QUANTISATION = ("group_size", "alpha")
_OF_HITS = ("minimum_hits", "layer_unit")
_OF_DEFINITIONS = ("definition", "layers", "engine", "details", "features", *RULE_KNOBS)


def _tables(arguments: argparse.Namespace) -> Iterator[str]:
    """What --criteria and --by answer."""
    asked = "--by" if arguments.criteria is None else "--criteria"
    others = [name for name in _OF_DEFINITIONS if arguments.criteria is not None or name not in _OF_HITS]
    others += [] if arguments.criteria is None else ["magnitude"]
    others += [] if arguments.criteria is None and arguments.by == "expert" else ["positions"]
    _refuse(arguments, others, f"goes with a definition of outliers, not with {asked}: leave one of them out")
    from analyze.evaluation.criterion_tables import asked_tables
    from analyze.formats import render_tables
    from analyze.progress import shown_progress, silent_progress

    tables = asked_tables(
        arguments.store,
        criteria=arguments.criteria,
        by=arguments.by,
        magnitude=arguments.magnitude,
        positions=arguments.positions,
        minimum_hits="1" if arguments.minimum_hits is None else arguments.minimum_hits,
        layer_unit=arguments.layer_unit or "cell",
        sites=arguments.sites,
        partial=arguments.partial,
        **{name: getattr(arguments, name) for name in PART_KNOBS},
        progress=silent_progress if arguments.quiet else shown_progress,
        **resources_of(arguments).options(),
    )
    return render_tables(tables, arguments.format)


def _quantisation(arguments: argparse.Namespace) -> Iterator[str]:
    """What --quantisation answers."""
    others = (*_OF_DEFINITIONS, "magnitude", "positions", "criteria", "by", "report", "plots")
    _refuse(arguments, others, "is another question than --quantisation: leave one of them out")
    from analyze.quantisation.flags import quantisation_text

    return quantisation_text(arguments)


def _refuse(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise InputError for one of ``names`` that was given another value than its default."""
    from schemas.errors import InputError

    parser = build_parser()
    for name in names:
        if getattr(arguments, name) != parser.get_default(name):
            raise InputError(f"--{name.replace('_', '-')} {why}")


def _results(arguments: argparse.Namespace) -> Iterator[str]:
    """What a definition counts."""
    from analyze.formats import lists_features, render
    from analyze.progress import shown_progress, silent_progress
    from analyze.thresholds.answers import answer
    from analyze.thresholds.question import ask

    knobs = {name: getattr(arguments, name) for name in _KNOBS}
    question = ask(arguments.magnitude, **knobs)
    progress = silent_progress if arguments.quiet else shown_progress
    resources = resources_of(arguments)
    if arguments.report is not None or arguments.plots is not None:
        seen, answered = written_overview(arguments, knobs, progress)
        if arguments.report is not None and arguments.format == "json":
            from analyze.overviews.document import json_text

            return iter([json_text(seen)])
        of = {(result.store, result.magnitude): result for result in answered}
        results = [of[store, magnitude] for store in arguments.store for magnitude in question.magnitudes]
        return render(results, arguments.format, arguments.features)
    one = len(arguments.store) * len(question.magnitudes) == 1
    listed = lists_features(arguments.format, arguments.features, one)
    results = [
        result for store in arguments.store for result in answer(store, question, progress, resources, features=listed)
    ]
    return render(results, arguments.format, arguments.features)


def _views(arguments: argparse.Namespace) -> Iterator[str]:
    """What --null, --published, --diff and their like answer."""
    asked = asked_views(arguments)[0]
    _refuse(
        arguments,
        ("quantisation", "criteria", "by", "report", "plots"),
        f"is another question than --{asked}: leave one of them out",
    )
    _refuse(arguments, _OF_QUANTISATION, f"goes with --quantisation, not with --{asked}: leave it out")
    from analyze.formats import render_tables
    from analyze.progress import shown_progress, silent_progress

    knobs = {name: getattr(arguments, name) for name in _KNOBS}
    progress = silent_progress if arguments.quiet else shown_progress
    return render_tables(view_tables(arguments, arguments.store, knobs, progress), arguments.format)


if __name__ == "__main__":
    sys.exit(main())
