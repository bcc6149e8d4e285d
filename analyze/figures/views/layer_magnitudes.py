"""The three largest magnitudes and the median one, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from analyze.figures.axes import drawable, every_nth, magnitude_axis, whole_axis
from analyze.figures.marks import mark
from analyze.figures.panels import panels
from analyze.figures.view import Drawn, View
from analyze.overviews.results import Absent, Overview, StoreView

__all__ = ["VIEW"]

_SERIES = ("Largest", "Second", "Third", "Median")


def draw(_: Overview, stores: Sequence[StoreView]) -> Drawn | Absent:
    """A panel for each tensor."""
    (store,) = stores
    curves = store.curves
    if isinstance(curves, Absent):
        return curves
    series = [drawable(rows) for rows in (*curves.top, curves.median)]
    figure, every = panels(len(curves.tensors), 2.0)
    for tensor, axes in enumerate(every):
        for place, (name, rows) in enumerate(zip(_SERIES, series, strict=True)):
            axes.plot(
                curves.layers, rows[tensor], label=name, markevery=every_nth(len(curves.layers)), **mark(place).line()
            )
        axes.set_title(curves.tensors[tensor])
        axes.set_xlabel("Layer")
        whole_axis(axes.xaxis)
    magnitude_axis(every[0], series)
    for axes in every:
        axes.grid(axis="y")
    every[0].set_ylabel("|X|")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return Drawn(
        figure,
        "The three largest magnitudes of a sequence's (position, feature) tensor and the median one, as means over "
        "sequences.",
        curves.left_out,
    )


VIEW = View(order=40, title="Largest and median magnitudes by layer", draw=draw, each_store=True, by_rule=False)
