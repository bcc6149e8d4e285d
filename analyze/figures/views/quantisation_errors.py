"""What each number format does to each tensor: signal to quantisation noise, and the relative error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyze.figures.axes import drawable, tick_numbers
from analyze.figures.library import PAGE, new_figure
from analyze.figures.marks import mark
from analyze.figures.texts import shortened
from analyze.figures.view import Drawn, View
from analyze.overviews.results import Absent, Overview, StoreView

__all__ = ["VIEW"]


def draw(_: Overview, stores: Sequence[StoreView]) -> Drawn | Absent:
    """A row for each format; for each site a bar over the layers' range, its median marked."""
    (store,) = stores
    view = store.quantisation
    if isinstance(view, Absent):
        return view
    sites = len(view.sites)
    figure = new_figure(PAGE, 0.75 + (0.085 * sites + 0.06) * len(view.formats))
    every = figure.subplots(1, 2, sharey=True)
    shown = (("SQNR, dB (more is better)", view.sqnr_db), ("Relative error, % (less is better)", view.relative_error))
    rows = np.arange(len(view.formats), dtype=np.float64)
    for axes, (name, values) in zip(every, shown, strict=True):
        numbers = drawable(values) * (100 if values is view.relative_error else 1)
        for place, site in enumerate(view.sites):
            one = mark(place)
            at = rows + (place - (sites - 1) / 2) * 0.8 / sites
            cells = numbers[:, place, :]
            known = np.isfinite(cells).any(axis=1)
            low, middle, high = (
                np.array([_or_nan(reduce, row) for row in cells]) for reduce in (np.min, np.median, np.max)
            )
            axes.hlines(at[known], low[known], high[known], color=one.colour, linewidth=2.2, alpha=0.35)
            axes.plot(
                middle,
                at,
                linestyle="none",
                marker=one.marker,
                markerfacecolor=one.colour,
                markeredgecolor="white",
                markersize=4.5,
                label=site,
            )
            for row in rows[(np.array(values, np.float64)[:, place, :] == np.inf).any(axis=1)].astype(int):
                axes.annotate(
                    "exact", (1, at[row]), xycoords=axes.get_yaxis_transform(), ha="right", va="center", fontsize=5.5
                )
        axes.set_xlabel(name)
        tick_numbers(axes.xaxis)
        axes.grid(axis="x")
    every[0].set_yticks(rows, [shortened(name, 28) for name in view.formats])
    every[0].set_ylim(len(view.formats) - 0.4, -0.6)
    for axes in every:
        axes.tick_params(axis="y", length=0)
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper left", ncols=min(4, sites))
    return Drawn(
        figure,
        "Activations of each site quantised and restored: markers are medians over layers, bars reach from the least "
        "layer to the greatest. All positions. SQNR: signal to quantisation noise; relative error: mean absolute error "
        "over mean magnitude. Exact: of some layer nothing is lost. The error at that tensor, not perplexity.",
    )


def _or_nan(reduce: object, row: np.ndarray) -> float:
    known = row[np.isfinite(row)]
    return float(reduce(known)) if known.size else float("nan")  # type: ignore[operator]


VIEW = View(order=80, title="Quantisation errors by format", draw=draw, each_store=True, by_rule=False)
