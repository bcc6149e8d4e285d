"""The flag that writes figures and tables beside the table that is printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analyze.flags.passes import resources_of

if TYPE_CHECKING:
    from analyze.overviews.results import Overview
    from analyze.progress import Progress

__all__ = ["PLOTS_EXAMPLES", "add_plots_flag", "plotted", "require_plots"]

PLOTS_EXAMPLES = "  analyze --store runs/*.zarr --magnitude 2:12:0.25 --plots figures"


def add_plots_flag(parser: argparse.ArgumentParser) -> None:
    """The flag, in a group of its own."""
    parser.add_argument_group("for a paper").add_argument(
        "--plots",
        metavar="DIR",
        help="also write all views as SVG and PNG with captions, and tables as CSV and LaTeX, into this folder; "
        "--engine peaks leaves out what takes a pass over the slices",
    )


def require_plots(folder: str) -> None:
    """Raise, before any store is read, InputError where files cannot be written there, or for want of matplotlib."""
    from analyze.figures.folder import require_folder
    from analyze.figures.library import require_matplotlib

    require_matplotlib()
    require_folder(folder)


def plotted(
    arguments: argparse.Namespace, knobs: Mapping[str, Any], progress: Progress, seen: Overview | None = None
) -> None:
    """Write the files. ``seen``: the overview, where it was made already."""
    from analyze.figures.plotting import INDEX, plot_overview
    from analyze.overviews.asking import overview

    if seen is None:
        seen = overview(
            arguments.store, arguments.magnitude, progress=progress, resources=resources_of(arguments), **knobs
        )
    written = plot_overview(seen, arguments.plots)
    if not arguments.quiet:
        figures = sum(path.suffix == ".svg" for path in written)
        print(
            f"analyze: {arguments.plots}: {figures} figures as SVG and PNG, with captions and tables; "
            f"begin with {INDEX}",
            file=sys.stderr,
            flush=True,
        )
