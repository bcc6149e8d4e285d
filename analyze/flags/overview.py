"""The flags that write what an overview shows, as a page or as figures, beside the table that is printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analyze.flags.passes import resources_of

if TYPE_CHECKING:
    from analyze.overviews.results import Overview
    from analyze.progress import Progress
    from analyze.thresholds.results import Result

__all__ = ["OVERVIEW_EXAMPLES", "add_overview_flags", "written_overview"]

_LARGE_BYTES = 8_000_000

OVERVIEW_EXAMPLES = """\
  analyze --store runs/*.zarr --magnitude 2:12:0.25 --report report.html
  analyze --store runs/*.zarr --magnitude 2:12:0.25 --plots figures"""


def add_overview_flags(parser: argparse.ArgumentParser) -> None:
    """The flags, each in a group of its own."""
    parser.add_argument_group("to look at").add_argument(
        "--report",
        metavar="FILE.html",
        help="also write one page that opens offline, with a slider over the magnitudes and all views of the stores; "
        "with --format json print what it is made of; --engine peaks leaves out what takes a pass over the slices",
    )
    parser.add_argument_group("for a paper").add_argument(
        "--plots",
        metavar="DIR",
        help="also write all views as SVG and PNG with captions, and tables as CSV and LaTeX, into this folder; "
        "--engine peaks leaves out what takes a pass over the slices",
    )


def written_overview(
    arguments: argparse.Namespace, knobs: Mapping[str, Any], progress: Progress
) -> tuple[Overview, list[Result]]:
    """What was written, as --report, --plots or both ask, and the answers that it rests on, magnitudes ascending.

    Raises, before any store is read, InputError where a file cannot be written, or for want of a library.
    """
    from analyze.overviews.asking import FEATURES, answered_overview

    if arguments.report is not None:
        from analyze.report.charts import library
        from analyze.report.writing import require_writable

        library()
        require_writable(arguments.report)
    if arguments.plots is not None:
        from analyze.figures.folder import require_folder
        from analyze.figures.library import require_matplotlib

        require_folder(arguments.plots)
        require_matplotlib()
    seen, results = answered_overview(
        arguments.store,
        arguments.magnitude,
        features=FEATURES if arguments.features is None else min(arguments.features, 10 * FEATURES),
        progress=progress,
        resources=resources_of(arguments),
        **knobs,
    )
    for line in _written(arguments, seen):
        if not arguments.quiet:
            print(f"analyze: {line}", file=sys.stderr, flush=True)
    return seen, results


def _written(arguments: argparse.Namespace, seen: Overview) -> list[str]:
    """Write the files; what is said of them."""
    lines = []
    if arguments.report is not None:
        from analyze.report.writing import write_report

        size = write_report(seen, arguments.report)
        lines.append(f"{arguments.report}: {size / 1e6:.1f} MB, opens in a browser, offline")
        if size > _LARGE_BYTES:
            advice = "small magnitudes take most of it: start higher, for example --magnitude 3:12:0.25"
            lines.append(f"that is much for a page; {advice}")
    if arguments.plots is not None:
        from analyze.figures.plotting import INDEX, plot_overview

        figures = sum(path.suffix == ".svg" for path in plot_overview(seen, arguments.plots))
        lines.append(
            f"{arguments.plots}: {figures} figures as SVG and PNG, with captions and tables; begin with {INDEX}"
        )
    return lines
