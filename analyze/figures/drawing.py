"""All figures of an overview, drawn, with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyze.figures.captions import caption
from analyze.figures.library import house_style
from analyze.figures.texts import file_part
from analyze.figures.view import View
from analyze.figures.views import load_views
from analyze.overviews.results import Absent, Overview, StoreView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DrawnView", "draw_views", "store_parts"]


@dataclass(frozen=True)
class DrawnView:
    """One figure, called ``name`` in files, or why there is none: ``figure`` is None then, ``caption`` the reason."""

    name: str
    title: str
    figure: Figure | None
    caption: str


def draw_views(overview: Overview) -> list[DrawnView]:
    """Every view of the overview in order; those of single stores have the store's name behind theirs.

    Raises MissingDependencyError where matplotlib is not installed.
    """
    parts = store_parts(overview)
    found = []
    with house_style():
        for name, view in load_views().items():
            if not view.each_store:
                found.append(_drawn(name, view, overview, overview.stores))
                continue
            for part, store in zip(parts, overview.stores, strict=True):
                found.append(_drawn(f"{name}-{part}" if part else name, view, overview, [store]))
    return found


def store_parts(overview: Overview) -> list[str]:
    """What tells files of single stores apart, for each: nothing where there is one store."""
    if len(overview.stores) == 1:
        return [""]
    parts = [file_part(store.facts.label) for store in overview.stores]
    folded = [part.lower() for part in parts]  # some file systems do not tell A from a
    return [part if folded.count(part.lower()) == 1 else f"{part}-{place}" for place, part in enumerate(parts, 1)]


def _drawn(name: str, view: View, overview: Overview, stores: Sequence[StoreView]) -> DrawnView:
    found = view.draw(overview, stores)
    title = view.title
    if view.each_store and len(overview.stores) > 1:
        title = f"{title}: {stores[0].facts.label}"
    if isinstance(found, Absent):
        return DrawnView(name, title, None, found.absent)
    return DrawnView(name, title, found.figure, caption(overview, stores, view, found))
