"""Flags for the knobs of a definition, each of which can be set alone; what they take is checked by ``analyze.ask``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

__all__ = ["KNOBS", "PART_KNOBS", "RULE_KNOBS", "add_knob_flags"]

_CHOICES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "layer_unit": (("cell", "block"), "what a layer is: a (site, layer) tensor, or one layer's sites together"),
    "scope": (("sequence", "pooled"), "count positions within each sequence, or over all tokens pooled"),
    "position_coverage": (
        ("union", "mean", "density"),
        "S%% is of positions hit in any cell, the mean over affected layers, or of all (cell, position) pairs",
    ),
    "tokens": (("all", "special", "first", "rest"), "special tokens, the first of a window or document, or the rest"),
}
_TEXTS: Mapping[str, tuple[str, str]] = {
    "minimum_hits": ("K|SHARE", "hits that make a layer an affected one: 1 (default), 5, or 2%% of the positions"),
    "layers_range": ("RANGE,...", "layers to look at: 4: from layer 4 on, :12 before layer 12, 4:12, 0,5,8:"),
    "positions_range": ("RANGE", "positions to look at: 1: without the first token"),
}
KNOBS = (*_CHOICES, *_TEXTS, "in_gain_units")
"""Their names, which are parameters of ``analyze.ask``."""
PART_KNOBS = ("layers_range", "positions_range", "tokens", "in_gain_units")
"""Those that say what of a store is looked at; --criteria and --by take them too."""
RULE_KNOBS = tuple(name for name in KNOBS if name not in PART_KNOBS)


def add_knob_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group to ``parser``."""
    add = parser.add_argument_group(
        "knobs of the definition",
        "each alone on top of --definition; all but the first two are answered from the slices (docs/definitions.md)",
    ).add_argument
    for name, (choices, said) in _CHOICES.items():
        default = "all" if name == "tokens" else None
        add(f"--{name.replace('_', '-')}", choices=choices, default=default, help=said)
    for name, (metavar, said) in _TEXTS.items():
        add(f"--{name.replace('_', '-')}", metavar=metavar, help=said)
    add("--in-gain-units", action="store_true", help="divide values by the gain of the norm that made them")
