"""Cells of a store as pieces: their rows, and what lies beside them, read once for all statistics."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from schemas.chunk_reading import ChunkReader, UnreadableChunkError
from schemas.run import Run, is_url

__all__ = ["CellReader", "row_parts"]

Positions = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]


def row_parts(positions: Positions, chunk: int) -> list[slice]:
    """Rows of ``positions``, ascending, that lie in one chunk of ``chunk`` positions each.

    >>> row_parts(np.array([1, 2, 5, 9]), 3)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    starts = np.flatnonzero(np.diff(positions // chunk, prepend=-1)).tolist()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], positions.size], strict=False)]


class CellReader:
    """Reads cells of one store; may be used from several threads, each of which has its own memory to read into."""

    def __init__(self, run: Run, chosen: Chosen) -> None:
        self.run = run
        self.chosen = chosen
        self._own = threading.local()
        # None refers to this object, which so ends with its last use, and its threads' memory with it.
        self.positions = positions = lru_cache(maxsize=64)(lambda sequence: chosen.positions(run, sequence))
        self._parts = lru_cache(maxsize=64)(lambda chunk, sequence: row_parts(positions(sequence), chunk))
        self._whole = lru_cache(maxsize=12)(partial(_read_whole, run))
        self._thin = lru_cache(maxsize=None)(partial(_thin_reader, run))

    def parts(self, array: str, sequence: int) -> list[slice]:
        """Rows of each part of a cell: one for each chunk of positions."""
        return self._parts(self.run.array(array).chunks[2], sequence)

    def piece(self, site: str, array: str, layer: int, sequence: int, rows: slice | None = None) -> Piece:
        """Rows of a cell, of all its chosen ones where ``rows`` is None: until this thread reads the next piece.

        Raises CorruptChunkError where a chunk fails its checksum or is missing.
        """
        positions = self.positions(sequence)
        start = 0
        if rows is not None:
            positions, start = positions[rows], rows.start
        stored = self._rows(array, (layer, sequence), positions, "piece")
        return self._piece(site, array, layer, sequence, positions, start, stored)

    def _piece(
        self,
        site: str,
        array: str,
        layer: int,
        sequence: int,
        positions: Positions,
        start: int,
        stored: Rows,
        frame: npt.NDArray[np.uint8] | None = None,
    ) -> Piece:
        return Piece(
            site=site,
            array=array,
            layer=layer,
            sequence=sequence,
            position=positions,
            start=start,
            stored=stored,
            encoding=self.run.encoding,
            in_gain_units=self.chosen.in_gain_units,
            norm=self.run.info.sites[array].norm,
            read_beside=self._beside,
            frame=frame,
        )

    def packed(self, site: str, array: str, layer: int, sequence: int, rows: slice) -> Piece | None:
        """The piece with its rows still as Blosc made them (``Piece.frame``), where they are all of one chunk.

        None where they are not, or the chunk cannot be read: ``piece`` says what is wrong. Until this thread reads
        another piece.
        """
        positions, thin = self.positions(sequence)[rows], self._thin(array)
        if thin is None or positions.size != thin.shape[2] or positions[0] % thin.shape[2]:
            return None
        if positions[-1] - positions[0] + 1 != positions.size:
            return None
        try:
            frame = thin.frame((layer, sequence, int(positions[0]) // thin.shape[2], 0))
        except UnreadableChunkError:
            return None
        stored = self._memory("piece", positions.size, thin)
        return self._piece(site, array, layer, sequence, positions, rows.start, stored, frame)

    def split(self, whole: Piece) -> Iterator[Piece]:
        """A cell's piece as its parts, without reading anything again."""
        for rows in self.parts(whole.array, whole.sequence):
            yield dataclasses.replace(whole, position=whole.position[rows], start=rows.start, stored=whole.stored[rows])

    def _rows(self, array: str, cell: tuple[int, int], positions: Positions, memory: str) -> Rows:
        """(row, feature) stored values of a cell at ``positions``, until this thread reads into ``memory`` again."""
        if not positions.size:
            return np.empty((0, self.run.dimensions.features), self.run.array(array).dtype)
        first, last = int(positions[0]), int(positions[-1]) + 1
        held = self._span(array, cell, first, last, memory)
        return held if last - first == positions.size else held[positions - first]

    def _span(self, array: str, cell: tuple[int, int], first: int, last: int, memory: str) -> Rows:
        thin = self._thin(array)
        if thin is not None:
            size = thin.shape[2]
            chunks = range(first // size, -(-last // size))
            into = self._memory(memory, len(chunks) * size, thin)
            try:
                for place, chunk in enumerate(chunks):
                    thin.read((*cell, chunk, 0), into[place * size : (place + 1) * size])
                return into[first - chunks.start * size : last - chunks.start * size]
            except UnreadableChunkError:
                pass  # zarr's read says what is wrong
        return self.run.read(array, (*cell, slice(first, last)))

    def _memory(self, name: str, rows: int, thin: ChunkReader) -> Rows:
        """This thread's memory of that name, for rows of an array."""
        held: dict[str, Rows] = self._own.__dict__.setdefault("memory", {})
        known = held.get(name)
        if known is None or known.shape[1] != thin.shape[3] or known.dtype != thin.dtype or len(known) < rows:
            held[name] = known = np.empty((rows, thin.shape[3]), thin.dtype)
        return known[:rows]

    def _beside(self, name: str, layer: int, sequence: int, positions: Positions) -> Rows | None:
        if name not in self.run:
            return None
        dims = _dims(self.run, name)
        if dims == ("layer", "sequence", "position", "feature"):
            return self._rows(name, (layer, sequence), positions, name)
        held = self._whole(name, sequence if "sequence" in dims else None)
        picked: dict[str, Any] = {"layer": layer, "position": positions}
        found: Rows = held[tuple(picked.get(dim, slice(None)) for dim in dims if dim != "sequence")]
        return found


def _thin_reader(run: Run, array: str) -> ChunkReader | None:
    """A reader of whole chunks, which are cells or parts of them along position; None where zarr is to read."""
    held = run.array(array)
    if is_url(run.path) or held.chunks[:2] != (1, 1) or held.chunks[3] != held.shape[3]:
        return None
    return ChunkReader.of(os.path.join(run.path, array), held)


def _dims(run: Run, name: str) -> tuple[str, ...]:
    return tuple(map(str, run.array(name).metadata.dimension_names or ()))  # type: ignore[union-attr]


def _read_whole(run: Run, name: str, sequence: int | None) -> Rows:
    """Of an array beside the slices, all layers of one sequence: its chunks are that large."""
    index = [slice(None) if dim != "sequence" or sequence is None else sequence for dim in _dims(run, name)]
    return run.read(name, tuple(index))
