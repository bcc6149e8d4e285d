"""Panels of one kind side by side in a figure, for several stores or tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analyze.figures.library import COLUMN, PAGE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["label_outer", "panels"]

_ABREAST = 3


def panels(count: int, height: float, *, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels of that height in inches: one column wide for one, a page for more.

    Axes are shared: rows of up to three, the outer ones labelled alone.
    """
    across = 2 if count == 4 else min(count, _ABREAST)
    down = math.ceil(count / across)
    figure = new_figure(COLUMN if count == 1 else PAGE, height * down)
    grid = figure.subplots(down, across, squeeze=False, sharey=share_y, sharex=False)
    every = list(grid.ravel())
    for axes in every[count:]:
        axes.remove()
    return figure, every[:count]


def label_outer(every: Sequence[Axes], name: str) -> None:
    """Name the y axis of the first panel of each row."""
    for axes in every:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(name)
