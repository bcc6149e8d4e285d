"""At which positions of a sequence large values are."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from analyze.figures.axes import tick_numbers
from analyze.figures.marks import mark
from analyze.figures.panels import label_outer, panels
from analyze.figures.texts import hits_words, name_words
from analyze.figures.view import Drawn, View, absences
from analyze.overviews.results import Absent, Overview, PositionProfile, StoreView

__all__ = ["VIEW", "nearest_magnitude"]


def draw(overview: Overview, stores: Sequence[StoreView]) -> Drawn | Absent:
    """A panel for each store that has slices, a line for each site."""
    shown = [(store, store.positions) for store in stores if isinstance(store.positions, PositionProfile)]
    left_out = absences(stores, [store.positions for store in stores])
    if not shown:
        return Absent(" ".join(left_out))
    figure, every = panels(len(shown), 2.05)
    chosen = overview.asked.magnitudes[overview.asked.chosen]
    least, largest, said = np.inf, 0.0, []
    for axes, (store, profile) in zip(every, shown, strict=True):
        place = nearest_magnitude(profile.magnitudes, chosen)
        for site, name in enumerate(profile.sites):
            rates = np.array(profile.hits[site][place]) / np.maximum(profile.tokens, 1)
            axes.plot(range(len(profile.bins)), rates, label=name, **mark(site).line())
            largest = max(largest, float(rates.max()))
            least = min(least, float(rates[rates > 0].min())) if rates.any() else least
        axes.set_xticks(range(len(profile.bins)), profile.bins, rotation=90)
        if len(shown) > 1:
            axes.set_title(name_words(store.facts.label, 30))
        axes.set_xlabel("Position in the sequence")
        if profile.magnitudes[place] != chosen:
            said.append(
                f"{store.facts.label} is shown at magnitude {profile.magnitudes[place]}, the nearest that its slices "
                "keep."
            )
    axes = every[0]
    if largest > 20 * least:
        axes.set_yscale("symlog", linthresh=least, linscale=0.4)
        axes.set_ylim(-0.15 * least, largest * 1.5)
        exponents = range(int(np.ceil(np.log10(least))), int(np.floor(np.log10(largest * 1.5))) + 1)
        axes.set_yticks([0, *(10.0**n for n in exponents[:: 1 + len(exponents) // 7])])
    else:
        axes.set_ylim(0, largest * 1.08 or 1)
    tick_numbers(axes.yaxis)
    for axes in every:
        axes.grid(axis="y")
    label_outer(every, "Hits per token")
    handles = {}
    for axes in every:
        handles.update(dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)))
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=min(4, len(handles)))
    caption = (
        f"Values with {hits_words(overview.asked.in_gain_units)} ≥ {chosen}, over all layers and features, for each "
        "token at those positions; whether the rule counts their features or not. Where rates span more than a factor "
        "of 20 the axis is linear from 0 to the least of them and logarithmic above."
    )
    return Drawn(figure, " ".join([caption, *said]), left_out)


def nearest_magnitude(magnitudes: Sequence[str], chosen: str) -> int:
    """The place of the magnitude that is nearest to the chosen one."""
    return min(range(len(magnitudes)), key=lambda i: abs(Decimal(magnitudes[i]) - Decimal(chosen)))


VIEW = View(order=60, title="Hits by position", draw=draw, by_rule=False)
