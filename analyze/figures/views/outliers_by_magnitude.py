"""How many outliers each store has at each magnitude."""

from __future__ import annotations

from collections.abc import Sequence

from analyze.figures.axes import count_axis, tick_numbers
from analyze.figures.library import COLUMN, new_figure
from analyze.figures.marks import mark
from analyze.figures.texts import hits_words, name_words, number
from analyze.figures.view import Drawn, View
from analyze.overviews.results import Absent, Overview, StoreView

__all__ = ["VIEW"]

_MARKERS = 12


def draw(overview: Overview, stores: Sequence[StoreView]) -> Drawn | Absent:
    """A line for each store; the counts at the chosen magnitude are filled and in the legend."""
    asked = overview.asked
    if len(asked.magnitudes) < 2:
        return Absent(
            f"Counts against magnitude take several magnitudes, and {asked.magnitudes[0]} alone was asked: "
            "give a range, for example --magnitude 2:12:0.25."
        )
    magnitudes = [float(magnitude) for magnitude in asked.magnitudes]
    figure = new_figure(COLUMN, 2.3 + 0.13 * len(stores))
    axes = figure.add_subplot()
    axes.axvline(magnitudes[asked.chosen], color="#8A8A8A", linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
    every = max(1, round(len(magnitudes) / _MARKERS))
    largest = 0
    for place, store in enumerate(stores):
        counts = [point.outliers for point in store.sweep]
        largest = max(largest, *counts)
        one = mark(place)
        label = f"{name_words(store.facts.label, 42)}: {counts[asked.chosen]:,}"
        axes.plot(magnitudes, counts, label=label, markevery=(place % every, every), zorder=2, **one.line())
        axes.plot(
            magnitudes[asked.chosen],
            counts[asked.chosen],
            linestyle="none",
            marker=one.marker,
            color=one.colour,
            markeredgecolor="white",
            markersize=6.5 + min(2.0 * (len(stores) - 1 - place), 5),  # where counts are the same, both are seen
            zorder=3,
        )
    count_axis(axes, largest)
    axes.margins(x=0.02)
    tick_numbers(axes.xaxis)
    axes.set_xlabel(f"Magnitude m of a hit, {hits_words(asked.in_gain_units)} ≥ m")
    axes.set_ylabel("Outliers" if asked.unit != "feature" else "Outlier features")
    figure.legend(
        loc="outside upper left", title=f"Outliers at {number(magnitudes[asked.chosen])}", alignment="left"
    ).get_title().set_fontsize(7)
    return Drawn(
        figure,
        f"The filled points and the numbers in the legend are at {asked.chosen_because}. "
        "The axis of counts is linear up to 1 and logarithmic above, unless all counts are small.",
    )


VIEW = View(order=10, title="Outliers against magnitude", draw=draw)
