"""How uneven magnitudes are, layer by layer: kurtosis of feature RMS, and the max-median ratio."""

from __future__ import annotations

from collections.abc import Sequence

from analyze.figures.axes import drawable, every_nth, magnitude_axis, whole_axis
from analyze.figures.marks import mark
from analyze.figures.panels import panels
from analyze.figures.view import Drawn, View
from analyze.overviews.results import Absent, Overview, StoreView

__all__ = ["VIEW"]


def draw(_: Overview, stores: Sequence[StoreView]) -> Drawn | Absent:
    """A panel for each of the two, a line for each tensor."""
    (store,) = stores
    curves = store.curves
    if isinstance(curves, Absent):
        return curves
    figure, every = panels(2, 2.0, share_y=False)
    shown = (("Kurtosis of feature RMS", curves.kurtosis), ("Max-median ratio", curves.max_median))
    for axes, (name, rows) in zip(every, shown, strict=True):
        values = drawable(rows)
        for place, tensor in enumerate(curves.tensors):
            axes.plot(
                curves.layers,
                values[place],
                label=tensor,
                markevery=every_nth(len(curves.layers)),
                **mark(place).line(),
            )
        magnitude_axis(axes, [values])
        whole_axis(axes.xaxis)
        axes.set_xlabel("Layer")
        axes.set_ylabel(name)
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper left", ncols=min(4, len(curves.tensors)))
    formulas = [
        f"{name.capitalize()}: {curves.formulas[name]}."
        for name in ("kurtosis", "max-median")
        if name in curves.formulas
    ]
    return Drawn(figure, " ".join(formulas), curves.left_out)


VIEW = View(order=50, title="Kurtosis and max-median ratio by layer", draw=draw, each_store=True, by_rule=False)
