"""Whether the number of outlier features grows with the tokens looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyze.figures.axes import drawable, whole_axis
from analyze.figures.library import COLUMN, new_figure
from analyze.figures.marks import mark
from analyze.figures.texts import name_words
from analyze.figures.view import Drawn, View, absences
from analyze.overviews.results import Absent, Overview, Saturation, StoreView

__all__ = ["VIEW"]


def draw(overview: Overview, stores: Sequence[StoreView]) -> Drawn | Absent:
    """A line for each store that answers, with its interval as a band."""
    shown = [
        (place, store, store.saturation)
        for place, store in enumerate(stores)
        if isinstance(store.saturation, Saturation)
    ]
    left_out = absences(stores, [store.saturation for store in stores])
    if not shown:
        return Absent(" ".join(left_out))
    chosen = overview.asked.chosen
    figure = new_figure(COLUMN, 2.1 + 0.13 * len(shown))
    axes = figure.add_subplot()
    for place, store, growth in shown:
        one = mark(place)
        band = drawable(growth.interval[chosen])
        axes.fill_between(growth.tokens, band[:, 0], band[:, 1], color=one.colour, alpha=0.15, linewidth=0)
        every = max(1, len(growth.tokens) // 16)
        axes.plot(
            growth.tokens,
            growth.unique_features[chosen],
            label=name_words(store.facts.label, 40),
            markevery=every,
            **one.line(),
        )
    most = max(float(np.nanmax(growth.unique_features[chosen])) for _, _, growth in shown)
    axes.set_ylim(-0.03 * max(most, 1), 1.15 * max(most, 1))
    axes.set_xlim(left=0)
    whole_axis(axes.xaxis, 6)
    whole_axis(axes.yaxis, 6)
    axes.grid(axis="y")
    axes.set_xlabel("Tokens")
    axes.set_ylabel("Unique features")
    figure.legend(loc="outside upper left")
    return Drawn(
        figure,
        f"Unique outlier features at magnitude {overview.asked.magnitudes[chosen]} in n = 1, 2, ... of the sequences: "
        "the mean over all choices of n of them, and as a band the 2.5 and 97.5 percentiles over random orders.",
        left_out,
    )


VIEW = View(order=70, title="Growth with tokens", draw=draw)
