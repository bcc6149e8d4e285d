"""Axes that several views share: counts from 0 on, magnitudes over decades, layers, maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analyze.figures.marks import MAP, NOTHING
from analyze.figures.texts import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "colour_bar",
    "colour_scale",
    "count_axis",
    "drawable",
    "every_nth",
    "magnitude_axis",
    "place_ticks",
    "tick_numbers",
    "whole_axis",
]

Values = npt.NDArray[np.float64]

_DECADES_APART = 5.0
"""Largest over smallest value, from which on an axis is logarithmic."""
_LINEAR_COUNTS = 12


def drawable(values: Any) -> Values:
    """float64, NaN where there is no value or none that has a place on paper."""
    found = np.array(values, dtype=np.float64)
    found[~np.isfinite(found)] = np.nan
    return found


def every_nth(points: int) -> int:
    """How many points of a line each marker stands for, so that markers do not hide the line."""
    return max(1, round(points / 12))


def tick_numbers(axis: Axis) -> None:
    """Ticks in plain numbers, as ``number`` writes them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: number(float(f"{value:.6g}"))))
    axis.set_minor_formatter(NullFormatter())


def count_axis(axes: Axes, largest: float) -> None:
    """The y axis from 0 to ``largest``: linear to 1 and decades above, or linear throughout where that is little."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if largest <= _LINEAR_COUNTS:
        axes.set_ylim(-0.04 * max(largest, 1), 1.08 * max(largest, 1))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    else:
        axes.set_yscale("symlog", linthresh=1, linscale=0.45)
        axes.set_ylim(-0.2, largest * 1.6)
        axes.yaxis.set_major_locator(FixedLocator([0, *(10**n for n in range(int(math.log10(largest * 1.6)) + 1))]))
        axes.yaxis.set_minor_locator(NullLocator())
    tick_numbers(axes.yaxis)
    axes.grid(axis="y")


def magnitude_axis(axes: Axes, drawn: Sequence[Values]) -> None:
    """The y axis of positive values: over decades where they span enough, else linear."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    values = np.concatenate([np.ravel(part) for part in drawn]) if drawn else np.empty(0)
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if positive.size and positive.size == values.size and positive.max() > _DECADES_APART * positive.min():
        axes.set_yscale("log")
        low, high = float(positive.min()), float(positive.max())
        margin = max(1.25, (high / low) ** 0.05)
        low, high = low / margin, high * margin
        axes.set_ylim(low, high)
        decades = math.log10(high / low)
        steps = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20 if decades < 9 else 7))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    tick_numbers(axes.yaxis)
    axes.grid(axis="y")


def whole_axis(axis: Axis, most: int = 7) -> None:
    """Ticks at whole numbers: layers, tokens."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, integer=True, min_n_ticks=1))
    tick_numbers(axis)


def place_ticks(axis: Axis, names: Sequence[str], most: int) -> None:
    """Names at places 0, 1, 2 and so on: as many of them as there is room for, the first among them."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    step = max(1, math.ceil(len(names) / most))
    axis.set_major_locator(FixedLocator(list(range(0, len(names), step))))
    axis.set_major_formatter(FixedFormatter(list(names[::step])))


def colour_bar(figure: Figure, shown: Any, every: Sequence[Axes], name: str) -> None:
    """A bar beside the panels, with ticks in plain numbers: enough of them, however few decades there are."""
    from matplotlib.ticker import FixedLocator

    bar = figure.colorbar(shown, ax=list(every), pad=0.02, aspect=26)
    bar.outline.set_linewidth(0.6)
    low, high = shown.norm.vmin, shown.norm.vmax
    if low > 0:
        bar.ax.yaxis.set_major_locator(FixedLocator(_decade_ticks(low, high)))
    bar.ax.minorticks_off()
    tick_numbers(bar.ax.yaxis)
    bar.set_label(name)


def _decade_ticks(low: float, high: float) -> list[float]:
    """Between 2 and 8 round numbers from ``low`` to ``high``, where there are."""
    decades = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8), tuple(n / 10 for n in range(10, 100))):
        found = [step * decade for decade in decades for step in steps if low <= step * decade <= high]
        if len(found) >= 3:
            return found[:: 1 + len(found) // 9]
    return [low, high]


def colour_scale(values: Values, *, decades: bool, span: float | None = None) -> tuple[Any, Any]:
    """(norm, colour map) for the values: logarithmic or linear, with a colour of nothing for NaN.

    Of a logarithmic one 0 has it too, unless ``span`` is given: the largest over the least value that is told apart
    from those below it.
    """
    import matplotlib
    from matplotlib.colors import LogNorm, Normalize

    shown = values[np.isfinite(values) & (values > 0)] if decades else values[np.isfinite(values)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (1.0, 1.0)
    if high == low:
        high = low * 1.01 if low > 0 else low + 1
    if span is not None:
        return LogNorm(max(low, high / span), high), matplotlib.colormaps[MAP].with_extremes(bad=NOTHING)
    colours = matplotlib.colormaps[MAP].with_extremes(bad=NOTHING, under=NOTHING)
    return (LogNorm(low, high) if decades else Normalize(low, high)), colours
