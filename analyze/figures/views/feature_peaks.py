"""Where single features are large: their peaks by site and layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyze.figures.axes import colour_bar, colour_scale, drawable, place_ticks
from analyze.figures.library import COLUMN, PAGE, new_figure
from analyze.figures.texts import hits_words
from analyze.figures.view import Drawn, View
from analyze.overviews.results import Absent, Overview, StoreView

__all__ = ["FEATURES", "VIEW"]

FEATURES = 16
"""Most features of one figure."""
_SPAN = 1000.0
"""Largest over least peak that colours tell apart."""


def draw(overview: Overview, stores: Sequence[StoreView]) -> Drawn | Absent:
    """A panel for each site: a row for each feature, a column for each layer."""
    (store,) = stores
    features = store.features[:FEATURES]
    if not features:
        return Absent("No feature meets even the least shares at the least magnitude asked: ask a lower one.")
    sites, layers = store.facts.sites, store.facts.layers
    peaks = drawable([feature.layer_peak for feature in features])
    peaks[peaks <= 0] = np.nan
    norm, colours = colour_scale(peaks, decades=True, span=_SPAN)
    wide = len(sites) > 1
    figure = new_figure(PAGE if wide else COLUMN, 0.75 + 0.15 * max(len(features), 4))
    every = figure.subplots(1, len(sites), squeeze=False, sharey=True)[0]
    for place, (axes, site) in enumerate(zip(every, sites, strict=True)):
        shown = axes.imshow(peaks[:, place, :], norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
        axes.set_title(site)
        axes.set_xlabel("Layer")
        place_ticks(axes.xaxis, [str(layer) for layer in layers], 10 if wide else 8)
        names = [f"{feature.feature}{'' if feature.counted else ' *'}" for feature in features]
        place_ticks(axes.yaxis, names, len(names))
        for side in ("top", "right"):
            axes.spines[side].set_visible(True)
    every[0].set_ylabel("Feature")
    colour_bar(figure, shown, every, f"Peak {hits_words(overview.asked.in_gain_units)}")
    caption = (
        "Colour: the largest magnitude of the feature in that tensor, over all positions and analysed sequences; light "
        f"grey where it is 0 or not finite, darkest from a {_SPAN:,.0f}th of the largest down."
    )
    if not all(feature.counted for feature in features):
        caption += " *: at no magnitude asked does the rule count it; at lesser shares it would."
    if len(store.features) > FEATURES:
        caption += f" The first {FEATURES} of {len(store.features)} features looked at."
    return Drawn(figure, caption)


VIEW = View(order=30, title="Where features are large", draw=draw, each_store=True)
