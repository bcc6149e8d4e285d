"""Cells of a store as pieces: their rows, and what lies beside them, read once for all statistics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from schemas.run import Run

__all__ = ["CellReader", "row_parts"]

Positions = npt.NDArray[np.int64]


def row_parts(positions: Positions, chunk: int) -> list[slice]:
    """Rows of ``positions``, ascending, that lie in one chunk of ``chunk`` positions each."""
    ends = np.searchsorted(positions, np.arange(chunk, int(positions[-1]) + 1 + chunk, chunk)) if positions.size else []
    parts, start = [], 0
    for end in map(int, ends):
        if end > start:
            parts.append(slice(start, end))
        start = end
    return parts


class CellReader:
    """Reads cells of one store; may be used from several threads."""

    def __init__(self, run: Run, chosen: Chosen) -> None:
        self.run = run
        self.chosen = chosen
        self._positions = lru_cache(maxsize=64)(lambda sequence: chosen.positions(run, sequence))
        self._whole = lru_cache(maxsize=12)(self._read_whole)

    def positions(self, sequence: int) -> Positions:
        """The chosen positions of a sequence."""
        return self._positions(sequence)

    def parts(self, array: str, sequence: int) -> list[slice]:
        """Rows of each part in which a cell is given: one for each chunk of positions."""
        return row_parts(self.positions(sequence), self.run.array(array).chunks[2])

    def piece(self, site: str, array: str, layer: int, sequence: int, rows: slice | None = None) -> Piece:
        """Rows of a cell, of all its chosen ones where ``rows`` is None."""
        positions = self.positions(sequence)
        start = 0
        if rows is not None:
            positions, start = positions[rows], rows.start
        stored = self._rows(array, (layer, sequence), positions)
        return Piece(
            site,
            array,
            layer,
            sequence,
            positions,
            start,
            stored,
            self.run.encoding,
            self.chosen.in_gain_units,
            self.run.info.sites[array].norm,
            self._beside,
        )

    def split(self, whole: Piece) -> Iterator[Piece]:
        """A cell's piece as its parts."""
        for rows in self.parts(whole.array, whole.sequence):
            yield Piece(
                whole.site,
                whole.array,
                whole.layer,
                whole.sequence,
                whole.position[rows],
                rows.start,
                whole.stored[rows],
                whole.encoding,
                whole.in_gain_units,
                whole.norm,
                whole.read_beside,
            )

    def _rows(self, array: str, cell: tuple[int, int], positions: Positions) -> npt.NDArray[Any]:
        """(row, feature) stored values of a cell at ``positions``."""
        if not positions.size:
            return np.empty((0, self.run.dimensions.features), self.run.array(array).dtype)
        first, last = int(positions[0]), int(positions[-1]) + 1
        held = self.run.read(array, (*cell, slice(first, last)))
        return held if last - first == positions.size else held[positions - first]

    def _beside(self, name: str, layer: int, sequence: int, positions: Positions) -> npt.NDArray[Any] | None:
        if name not in self.run:
            return None
        dims = self.run.array(name).metadata.dimension_names or ()  # type: ignore[union-attr]
        if dims == ("layer", "sequence", "position", "feature"):
            return self._rows(name, (layer, sequence), positions)
        held = self._whole(name, sequence if "sequence" in dims else None)
        where: list[Any] = [
            {"layer": layer, "position": positions}.get(dim, slice(None)) for dim in dims if dim != "sequence"
        ]
        found: npt.NDArray[Any] = held[tuple(where)]
        return found

    def _read_whole(self, name: str, sequence: int | None) -> npt.NDArray[Any]:
        """Of an array beside the slices, all layers of one sequence: its chunks are that large."""
        dims = self.run.array(name).metadata.dimension_names or ()  # type: ignore[union-attr]
        return self.run.read(name, tuple(sequence if dim == "sequence" else slice(None) for dim in dims))
