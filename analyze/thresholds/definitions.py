"""Definitions of "systematic outlier feature", as data: what is counted, and over what its shares are taken.

Every preset is a row of knobs that the rest of the package reads; adding one touches this file alone. Words and
formulas: docs/definitions.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

__all__ = ["DEFAULT_DEFINITION", "DEFINITIONS", "ONE_HIT", "Definition", "Minimum"]


@dataclass(frozen=True)
class Minimum:
    """The fewest hits with which a layer counts as affected: ``count`` of them, or a ``share`` of the positions."""

    text: str = "1"
    count: int = 1
    share: Fraction | None = None

    def of(self, positions: int) -> int:
        """Hits needed where that many positions are looked at; at least 1."""
        return self.count if self.share is None else max(1, math.ceil(self.share * positions))


ONE_HIT = Minimum()


@dataclass(frozen=True)
class Definition:
    """The knobs of one definition.

    ``scope`` says where positions are counted: within each sequence, or over all sequences pooled. ``layer_unit``
    says what a "layer" is: a cell, which is one (site, layer) tensor, or a block, hit if any of its sites is.
    ``sequence_share`` is None where each scope counts by itself; otherwise a feature counts once if it meets the
    rule in at least that share of the sequences. ``position_coverage`` says which share of positions is asked about:
    those hit in any cell, the mean over affected layers, or all cells' together. ``minimum_hits`` is how many hits
    make a layer an affected one.
    """

    preset: str
    scope: Literal["sequence", "pooled"]
    layer_unit: Literal["cell", "block"]
    sequence_share: Fraction | None
    source: str
    position_coverage: Literal["union", "mean", "density"] = "union"
    minimum_hits: Minimum = ONE_HIT

    @property
    def unit(self) -> Literal["sequence-feature", "feature"]:
        """What is counted: (sequence, feature) pairs, or features once."""
        pairs = self.scope == "sequence" and self.sequence_share is None
        return "sequence-feature" if pairs else "feature"


DEFAULT_DEFINITION = "moe-table"

DEFINITIONS: Mapping[str, Definition] = MappingProxyType(
    {
        definition.preset: definition
        for definition in (
            Definition("moe-table", "sequence", "cell", None, "the published table of mixture-of-experts models"),
            Definition("llm-int8", "pooled", "cell", None, "the wording of LLM.int8(), section 4.1"),
            Definition("llm-int8-block", "pooled", "block", None, "the other reading of LLM.int8(), section 4.1"),
            Definition("majority", "sequence", "cell", Fraction(1, 2), "moe-table, robust to the sequence count"),
        )
    }
)
