"""Which layers, positions and tokens of a store a table is of, as typed, and the same told in the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from analyze.statistics.selection import Selection, choose
from analyze.tables.likeness import with_likeness
from analyze.tables.table import Table
from analyze.thresholds.knobs import parse_layers_range, parse_positions_range
from analyze.thresholds.question import TOKENS
from schemas.errors import InputError
from schemas.layout import Dimensions
from schemas.run import Run

__all__ = ["PartOfStore", "alike", "in_units_of_gain"]


@dataclass(frozen=True)
class PartOfStore:
    """What ``--layers-range``, ``--positions-range`` and ``--tokens`` say; None and ``all`` leave nothing out."""

    layers_range: str | None = None
    positions_range: str | None = None
    tokens: str = "all"

    def selection(self, run: Run, sites: tuple[str, ...] | None, partial: bool, in_gain_units: bool) -> Selection:
        """That part of ``run``; raises InputError for a range or class that it has not, or has no token of."""
        d = run.dimensions
        layers = positions = None
        if self.layers_range is not None:
            layers = parse_layers_range(self.layers_range).of(d.layers, run.path)
        if self.positions_range is not None:
            found = parse_positions_range(self.positions_range).of(d.positions, run.path)
            positions = (found[0], found[-1] + 1)
        if self.tokens not in TOKENS:
            raise InputError(f"no class of tokens is called {self.tokens!r}; --tokens takes: {', '.join(TOKENS)}")
        selection = Selection(
            sites=sites,
            layers=layers,
            positions=positions,
            tokens=None if self.tokens == "all" else self.tokens,
            in_gain_units=in_gain_units,
            partial=partial,
        )
        if selection.tokens is not None:
            chosen = choose(run, selection, slices=False)
            if not any(chosen.positions(run, sequence).size for sequence in chosen.sequences):
                raise InputError(
                    f"{run.path} has no {self.tokens} tokens at the chosen positions: choose other --tokens"
                )
        return selection

    def told(self, table: Table) -> Table:
        """``table`` with what was looked at, where that is not everything, in a note and for programs."""
        parts = [
            f"{noun} {text}"
            for noun, text in (("layers", self.layers_range), ("positions", self.positions_range))
            if text is not None
        ]
        if self.tokens != "all":
            parts.append(f"tokens of class {self.tokens}")
        if not parts:
            return table
        return dataclasses.replace(
            table,
            notes=(*table.notes, f"Looked at: {', '.join(parts)} alone."),
            about={**table.about, **dataclasses.asdict(self)},
        )


@dataclass(frozen=True)
class _LookedAt:
    sites: tuple[str, ...]
    sequences: tuple[int, ...]
    dimensions: Dimensions


def alike(
    tables: Sequence[Table], runs: Sequence[Run], selections: Sequence[Selection], names: Sequence[str]
) -> list[Table]:
    """``tables`` of these selections of ``runs``, with what keeps those from being compared like with like."""
    chosen = [choose(run, selection, slices=False) for run, selection in zip(runs, selections, strict=True)]
    looked_at = [_LookedAt(one.sites, one.sequences, run.dimensions) for one, run in zip(chosen, runs, strict=True)]
    return with_likeness(tables, [run.info for run in runs], looked_at, names)


def in_units_of_gain(table: Table) -> Table:
    """``table`` with its unit, where values were divided by the gain of the norm that made them."""
    note = "Values are in units of gain: each divided by the gain that its feature has in the norm that made it."
    return dataclasses.replace(table, notes=(*table.notes, note), about={**table.about, "in_gain_units": True})
