"""The form of a view: what a module of ``analyze.figures.views`` says of itself, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyze.overviews.results import Absent, Overview, StoreView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawn", "View", "absences"]


@dataclass(frozen=True)
class Drawn:
    """A figure, what is seen in it, in sentences, and which stores are not in it and why."""

    figure: Figure
    caption: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """One view. ``order``: its place among the others.

    ``each_store``: ``draw`` is called for each store by itself, rather than once for all. ``by_rule``: it shows what
    the definition counts, so that its caption gives the definition. ``draw`` takes the overview and the stores to
    draw, in the house style, and says why where there is nothing to draw.
    """

    order: int
    title: str
    draw: Callable[[Overview, Sequence[StoreView]], Drawn | Absent]
    each_store: bool = False
    by_rule: bool = True


def absences(stores: Sequence[StoreView], views: Sequence[object]) -> tuple[str, ...]:
    """Why each of the stores has none of a view, for those that have not; named where there are several."""
    return tuple(
        f"{store.facts.label}: {view.absent}" if len(stores) > 1 else view.absent
        for store, view in zip(stores, views, strict=True)
        if isinstance(view, Absent)
    )
