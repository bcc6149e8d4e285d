"""``plot_overview``: the figures and tables of an overview as files in a folder."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyze.figures.drawing import DrawnView, draw_views
from analyze.figures.folder import replace_files, require_folder
from analyze.figures.library import house_style, require_matplotlib
from analyze.figures.tables import overview_tables
from analyze.formats import render_tables
from analyze.formats.latex import latex_text
from analyze.overviews.results import Overview
from analyze.tables.printable import printable
from analyze.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INDEX", "figure_files", "plot_overview"]

INDEX = "FIGURES.md"
_IMAGES: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
"""Formats, with the metadata that would differ from day to day or from one version to the next left out."""


def plot_overview(overview: Overview, folder: str | os.PathLike[str]) -> list[Path]:
    """Paths of the files that were written: figures, captions and tables, with ``FIGURES.md`` as their index.

    Each figure as SVG and PNG, 3.3 or 6.9 inches wide, with its caption as text and as a LaTeX figure that includes
    it; counts, features and quantisation errors as CSV and LaTeX. A view that a store cannot answer is named in the
    index with the reason. The same overview gives the same bytes. The folder is made if need be; files are replaced
    where this function wrote them and nobody changed them since. Raises InputError where the folder cannot be written
    or holds other files of these names, and MissingDependencyError where matplotlib is not installed.

    >>> from analyze import overview
    >>> written = plot_overview(overview("runs/tiny.zarr", "6:9:1"), "figures")
    >>> [path.name for path in written if path.suffix == ".svg"][:2]
    ['outliers-by-magnitude.svg', 'phase-map.svg']
    """
    require_matplotlib()
    require_folder(folder)
    files = figure_files(overview)
    made = replace_files(folder, files)
    return [made / name for name in files]


def figure_files(overview: Overview) -> dict[str, bytes]:
    """Contents of all files by name, figures first."""
    views = draw_views(overview)
    files: dict[str, bytes] = {}
    for view in views:
        if view.figure is None:
            continue
        for kind, metadata in _IMAGES.items():
            files[f"{view.name}.{kind}"] = _image(view.figure, kind, metadata)
        files[f"{view.name}.txt"] = f"{view.caption}\n".encode()
        files[f"{view.name}.tex"] = _latex_figure(view).encode()
    tables = overview_tables(overview)
    for table in tables:
        for suffix, form in (("csv", "csv"), ("tex", "latex")):
            files[f"{table.name}.{suffix}"] = "".join(render_tables([table], form)).encode()
    files[INDEX] = _index(overview, views, tables).encode()
    return files


def _image(figure: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    with house_style():
        figure.savefig(out, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # laid out once, which is half of the time: the next format keeps the places
    return out.getvalue()


def _latex_figure(view: DrawnView) -> str:
    assert view.figure is not None
    wide = view.figure.get_figwidth() > 4
    environment, width = ("figure*", r"\textwidth") if wide else ("figure", r"\columnwidth")
    return "\n".join(
        (
            r"% needs \usepackage{graphicx}; the SVG is the same figure for an editor or \usepackage{svg}",
            rf"\begin{{{environment}}}",
            r"\centering",
            rf"\includegraphics[width={width}]{{{view.name}.png}}",
            rf"\caption{{{latex_text(view.caption)}}}",
            rf"\label{{fig:{view.name}}}",
            rf"\end{{{environment}}}",
            "",
        )
    )


def _index(overview: Overview, views: list[DrawnView], tables: list[Table]) -> str:
    lines = ["# Figures", "", f"By {overview.made_by}, of:", ""]
    lines += [f"- {_markdown(f'{store.facts.label}: {store.facts.path}')}" for store in overview.stores]
    for view in views:
        lines += ["", f"## {_markdown(view.title)}", ""]
        if view.figure is None:
            lines.append(f"Not drawn. {_markdown(view.caption)}")
        else:
            lines += [f"![{_markdown(view.title)}]({view.name}.svg)", "", _markdown(view.caption)]
    lines += ["", "## Tables", ""]
    lines += [f"- {table.name}.csv, {table.name}.tex: {_markdown(table.title)}" for table in tables]
    if overview.notes:
        lines += ["", "## Not like with like", "", *(f"- {_markdown(note)}" for note in overview.notes)]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#$" else c for c in printable(text))
