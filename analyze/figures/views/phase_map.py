"""How many outliers there are at each magnitude and least share of layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyze.figures.axes import colour_bar, colour_scale, tick_numbers
from analyze.figures.marks import ACCENT
from analyze.figures.panels import label_outer, panels
from analyze.figures.texts import hits_words, name_words
from analyze.figures.view import Drawn, View
from analyze.overviews.results import Absent, Overview, StoreView

__all__ = ["VIEW"]


def draw(overview: Overview, stores: Sequence[StoreView]) -> Drawn | Absent:
    """A panel for each store, one scale of colours for all."""
    asked = overview.asked
    if len(asked.magnitudes) < 2:
        return Absent(
            f"A map over magnitudes takes several, and {asked.magnitudes[0]} alone was asked: "
            "give a range, for example --magnitude 2:12:0.25."
        )
    percents = {step.text: 100 * step.numerator / step.denominator for step in asked.layer_shares}
    maps = [np.array(store.phase.outliers, np.float64) for store in stores]
    norm, colours = colour_scale(np.concatenate([values.ravel() for values in maps]), decades=True)
    figure, every = panels(len(stores), 2.3)
    magnitudes = np.array([float(magnitude) for magnitude in asked.magnitudes])
    shown = None
    for axes, store, values in zip(every, stores, maps, strict=True):
        shares = np.array([percents[text] for text in store.phase.layer_shares])
        shown = axes.pcolormesh(_edges(magnitudes), _edges(shares), values, norm=norm, cmap=colours)
        axes.plot(
            magnitudes[asked.chosen],
            100 * asked.layer_shares[asked.layer_share].numerator / asked.layer_shares[asked.layer_share].denominator,
            marker="o",
            markersize=6,
            markerfacecolor="none",
            markeredgecolor=ACCENT,
            markeredgewidth=1.6,
        )
        for side in ("top", "right"):
            axes.spines[side].set_visible(True)
        tick_numbers(axes.xaxis)
        tick_numbers(axes.yaxis)
        if len(stores) > 1:
            axes.set_title(name_words(store.facts.label, 30))
        axes.set_xlabel(f"Magnitude m, {hits_words(asked.in_gain_units)} ≥ m")
    label_outer(every, "Least share of layers, %")
    assert shown is not None
    colour_bar(figure, shown, every, "Outliers")
    return Drawn(
        figure,
        "Colour: outliers at that magnitude and that least share of layers, all else as asked; light grey where there "
        f"is none. The ring: magnitude {asked.magnitudes[asked.chosen]} and a layer share of "
        f"{asked.layer_shares[asked.layer_share].text}.",
    )


def _edges(centres: np.ndarray) -> np.ndarray:
    """Edges half way between ascending centres."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


VIEW = View(order=20, title="Outliers over magnitude and layer share", draw=draw)
