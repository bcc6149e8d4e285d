"""The flag that writes the interactive page beside the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analyze.flags.passes import resources_of

if TYPE_CHECKING:
    from analyze.overviews.results import Overview
    from analyze.progress import Progress

__all__ = ["REPORT_EXAMPLES", "add_report_flags", "reported"]

_LARGE_BYTES = 8_000_000

REPORT_EXAMPLES = "  analyze --store runs/*.zarr --magnitude 2:12:0.25 --report report.html"


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    """The flag, in a group of its own."""
    parser.add_argument_group("to look at").add_argument(
        "--report",
        metavar="FILE.html",
        help="also write one page that opens offline, with a slider over the magnitudes and all views of the stores; "
        "with --format json print what it is made of; --engine peaks leaves out what takes a pass over the slices",
    )


def reported(arguments: argparse.Namespace, knobs: Mapping[str, Any], progress: Progress) -> Overview:
    """What the page shows, after it was written; raises InputError, before any store is read, where it cannot be."""
    from analyze.overviews.asking import FEATURES, overview
    from analyze.report.charts import library
    from analyze.report.writing import require_writable, write_report

    library()
    file = require_writable(arguments.report)
    seen = overview(
        arguments.store,
        arguments.magnitude,
        features=FEATURES if arguments.features is None else min(arguments.features, 10 * FEATURES),
        progress=progress,
        resources=resources_of(arguments),
        **knobs,
    )
    size = write_report(seen, file)
    if not arguments.quiet:
        print(f"analyze: {file}: {size / 1e6:.1f} MB, opens in a browser, offline", file=sys.stderr, flush=True)
        if size > _LARGE_BYTES:
            advice = "small magnitudes take most of it: start higher, for example --magnitude 3:12:0.25"
            print(f"analyze: that is much for a page; {advice}", file=sys.stderr, flush=True)
    return seen
