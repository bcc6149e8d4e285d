"""Colours, line styles and markers: told apart with any colour vision, and without colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ACCENT", "DASHES", "HATCHES", "MAP", "MARKERS", "NOTHING", "PALETTE", "Mark", "mark"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours (2008), but their yellow, which white paper swallows."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (7, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
HATCHES = ("", "/////", ".....", "xxxxx")

MAP = "cividis"
"""For maps: made for deficient colour vision, and as light as it is large in grey (Nunez et al., 2018)."""
NOTHING = "#F1F1F1"
"""Of a map's cells in which there is nothing."""
ACCENT = "#D55E00"
"""What was chosen."""


@dataclass(frozen=True)
class Mark:
    """How one of several things is drawn."""

    colour: str
    dashes: Any
    marker: str
    hatch: str

    def line(self) -> dict[str, Any]:
        """As a line's options."""
        return {
            "color": self.colour,
            "linestyle": self.dashes,
            "marker": self.marker,
            "markerfacecolor": "white",
            "markeredgecolor": self.colour,
        }


def mark(place: int) -> Mark:
    """How the thing at ``place`` is drawn; the first 315 differ in colour, line or marker, any 5 in a row in all."""
    return Mark(
        PALETTE[place % len(PALETTE)],
        DASHES[place % len(DASHES)],
        MARKERS[place % len(MARKERS)],
        HATCHES[place % len(HATCHES)],
    )
