"""Outliers against a model's size and its perplexity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyze.figures.axes import count_axis, tick_numbers
from analyze.figures.marks import mark
from analyze.figures.panels import panels
from analyze.figures.texts import name_words
from analyze.figures.view import Drawn, View
from analyze.overviews.results import Absent, Overview, StoreView

__all__ = ["VIEW"]


def draw(overview: Overview, _: Sequence[StoreView]) -> Drawn | Absent:
    """A panel against parameters and one against perplexity, where any is known; a marker for each family."""
    found = overview.emergence
    if isinstance(found, Absent):
        return found
    column = {name: [row[place] for row in found.rows] for place, name in enumerate(found.names)}
    axes_of = [("Parameters", np.array(column["total_parameters"], np.float64))]
    perplexity = np.array([np.nan if v is None else v for v in column["perplexity"]], np.float64)
    if np.isfinite(perplexity).any():
        axes_of.append(("Perplexity", perplexity))
    counts = np.array(column["outliers"], np.float64)
    families = list(dict.fromkeys(column["family"]))
    figure, every = panels(len(axes_of), 2.2 + 0.06 * len(counts))
    for axes, (name, values) in zip(every, axes_of, strict=True):
        for place, label in enumerate(column["run"]):
            one = mark(families.index(column["family"][place]))
            style = {**mark(families.index(column["family"][place])).line(), "marker": mark(place).marker}
            style |= {"linestyle": "none", "markersize": 5.5, "markeredgewidth": 1.1}
            axes.plot(values[place], counts[place], label=name_words(label, 48), **style)
        for family in families:
            own = [i for i, name_ in enumerate(column["family"]) if name_ == family and np.isfinite(values[i])]
            own.sort(key=lambda i: (values[i], counts[i]))
            if len(own) > 1:
                one = mark(families.index(family))
                axes.plot(values[own], counts[own], color=one.colour, linestyle=one.dashes, linewidth=0.8, zorder=1)
        count_axis(axes, float(counts.max()))
        _across(axes, values)
        axes.set_xlabel(name)
    every[0].set_ylabel("Outliers" if overview.asked.unit != "feature" else "Outlier features")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper left", ncols=2 if len(every) > 1 else 1)
    return Drawn(
        figure,
        f"At magnitude {found.magnitude}. Colour and line: the family of a model "
        f"({'; '.join(families)}); lines join members of one family and are no fit. A perplexity holds for the text "
        "that it was measured on.",
    )


def _across(axes: object, values: np.ndarray) -> None:
    """The x axis: logarithmic where the values span a factor of 5."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    assert isinstance(axes, Axes)
    known = values[np.isfinite(values)]
    if known.size and known.min() > 0 and known.max() > 5 * known.min():
        axes.set_xscale("log")
        axes.set_xlim(known.min() / 1.5, known.max() * 1.5)
        few = known.max() < 300 * known.min()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=20))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    tick_numbers(axes.xaxis)


VIEW = View(order=90, title="Outliers against size and perplexity", draw=draw)
