"""The unit of work of the pass: some cells of one sequence, read one after another, for all statistics at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from analyze.statistics.cells import CellReader
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Key, Partial, Statistic
from schemas.errors import CorruptChunkError
from schemas.run import Run

__all__ = ["Block", "Excluded", "Found", "merge", "work"]


@dataclass(frozen=True)
class Block:
    """(site, array, layer) cells of one sequence."""

    sequence: int
    cells: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Excluded:
    """A cell of one sequence that could not be read, and why."""

    site: str
    layer: int
    sequence: int
    reason: str


@dataclass(frozen=True)
class Found:
    """Partials of each statistic, by key, and what was left out."""

    partials: tuple[dict[Key, Partial], ...]
    excluded: tuple[Excluded, ...]


@lru_cache(maxsize=4)
def _reader(path: str, chosen: Chosen, identity: str) -> CellReader:
    """One reader of a store for all threads of a process, as long as the store is what it was (``identity``)."""
    return CellReader(Run(path), chosen)


def work(
    path: str, identity: str, chosen: Chosen, statistics: Sequence[Statistic], block: Block, skip_corrupt: bool
) -> Found:
    """What the cells of ``block`` contribute; raises CorruptChunkError for one that cannot be read, unless skipped."""
    reader = _reader(path, chosen, identity)
    found: tuple[dict[Key, Partial], ...] = tuple({} for _ in statistics)
    excluded: list[Excluded] = []
    for site, array, layer in block.cells:
        try:
            pieces = list(_pieces(reader, statistics, site, array, layer, block.sequence))
            partials = [(i, statistics[i].key(piece), statistics[i].chunk(piece)) for i, piece in pieces]
        except CorruptChunkError as error:
            if not skip_corrupt:
                raise
            excluded.append(Excluded(site, layer, block.sequence, str(error)))
            continue
        for i, key, partial in partials:
            held = found[i].get(key)
            found[i][key] = partial if held is None else statistics[i].combine(held, partial)
    return Found(found, tuple(excluded))


def _pieces(
    reader: CellReader, statistics: Sequence[Statistic], site: str, array: str, layer: int, sequence: int
) -> Iterator[tuple[int, Piece]]:
    """(index of a statistic, piece that it is given) of one cell, in order."""
    whole = reader.piece(site, array, layer, sequence)
    parts = list(reader.split(whole))
    for piece in [whole] if len(parts) == 1 else parts:
        yield from ((i, piece) for i, statistic in enumerate(statistics) if statistic.in_parts)
    yield from (
        (i, whole if len(parts) != 1 else parts[0]) for i, statistic in enumerate(statistics) if not statistic.in_parts
    )


def merge(statistics: Sequence[Statistic], first: Found, second: Found) -> Found:
    """Both together, ``second`` being of later pieces."""
    for statistic, held, more in zip(statistics, first.partials, second.partials, strict=True):
        for key, partial in more.items():
            held[key] = statistic.combine(held[key], partial) if key in held else partial
    return Found(first.partials, first.excluded + second.excluded)
