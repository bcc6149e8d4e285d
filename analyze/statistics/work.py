"""The unit of work of the pass: some cells of one sequence, read one after another, for all statistics at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from analyze.statistics.cells import CellReader
from analyze.statistics.fusion import Fusion, add
from analyze.statistics.piece import Piece
from analyze.statistics.place import Place
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Key, Partial, Reduction
from schemas.chunk_reading import UnreadableChunkError
from schemas.errors import CorruptChunkError

__all__ = ["Block", "Excluded", "Found", "Task", "forget_stores", "merged"]


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


@dataclass
class Found:
    """Partials of each statistic, by key, and what was left out."""

    partials: tuple[dict[Key, Partial], ...]
    excluded: tuple[Excluded, ...] = ()

    def keeping(self, statistics: Sequence[Reduction], sequence: bool) -> Found:
        """That of the statistics that keep sequences apart, with what was left out; or else of those that do not."""
        wanted = [("sequence" in statistic.keeps) == sequence for statistic in statistics]
        kept = tuple(held if want else {} for held, want in zip(self.partials, wanted, strict=True))
        return Found(kept, self.excluded if sequence else ())

    def take_in(self, statistics: Sequence[Reduction], more: Found) -> None:
        """Combine ``more``, which is not changed, with what is held, after it."""
        self.excluded += more.excluded
        for statistic, held, others in zip(statistics, self.partials, more.partials, strict=True):
            for key, partial in others.items():
                held[key] = statistic.combine(held[key], partial) if key in held else partial


@lru_cache(maxsize=2)
def _reader(place: Place, chosen: Chosen, number: str) -> CellReader:
    """One reader of a store for all threads of a process, and for one pass: the store may be another in the next."""
    return CellReader(place.opened(chosen), chosen)


def forget_stores() -> None:
    """Release what this process has read stores into."""
    _reader.cache_clear()


@dataclass(frozen=True)
class Task:
    """What a pass does with a block; sent to the process that does it."""

    place: Place
    number: str
    chosen: Chosen
    statistics: tuple[Reduction, ...]
    skip_corrupt: bool
    fusion: Fusion = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fusion", Fusion.of(self.statistics, self.chosen.in_gain_units))

    def __call__(self, block: Block) -> Found:
        """What the cells of ``block`` contribute.

        Raises CorruptChunkError for one that cannot be read, or with ``skip_corrupt`` leaves it out; StoreError where
        this is a cluster's worker and finds another store than the one that is asked about.
        """
        with self.place.named():
            return self._found(block)

    def _found(self, block: Block) -> Found:
        reader = _reader(self.place, self.chosen, self.number)
        found = Found(tuple({} for _ in self.statistics))
        for site, array, layer in block.cells:
            if not self.skip_corrupt:
                self._take(reader, site, array, layer, block.sequence, found)
                continue
            own = Found(tuple({} for _ in self.statistics))  # nothing of a cell counts if any of it cannot be read
            try:
                self._take(reader, site, array, layer, block.sequence, own)
            except CorruptChunkError as error:
                found.excluded += (Excluded(site, layer, block.sequence, str(error)),)
                continue
            found.take_in(self.statistics, own)
        return found

    @property
    def _only_fused(self) -> bool:
        return len(self.fusion.members) == len(self.statistics)

    def _take(self, reader: CellReader, site: str, array: str, layer: int, sequence: int, found: Found) -> None:
        apart = self.fusion.members
        for piece, whole in self._pieces(reader, site, array, layer, sequence):
            if not whole:
                try:
                    self.fusion.take(self.statistics, piece, found.partials)
                except UnreadableChunkError:  # of one that came packed
                    rows = slice(piece.start, piece.start + len(piece.position))
                    unpacked = reader.piece(site, array, layer, sequence, rows)
                    self.fusion.take(self.statistics, unpacked, found.partials)
            for i, statistic in enumerate(self.statistics):
                if i not in apart and statistic.in_parts != whole:
                    add(statistic, piece, statistic.chunk(piece), found.partials[i])

    def _pieces(
        self, reader: CellReader, site: str, array: str, layer: int, sequence: int
    ) -> Iterator[tuple[Piece, bool]]:
        """Parts of a cell, and where a statistic asks for it the cell as a whole, which is told by True."""
        if all(statistic.in_parts for statistic in self.statistics):
            # of float32 none: compiling the loop for it too takes 5 s
            by_blocks = self._only_fused and reader.run.encoding.itemsize == 2 and _decodes_blocks()
            for rows in reader.parts(array, sequence) or [slice(0, 0)]:
                packed = reader.packed(site, array, layer, sequence, rows) if by_blocks else None
                yield packed or reader.piece(site, array, layer, sequence, rows), False
            return
        whole = reader.piece(site, array, layer, sequence)
        if any(statistic.in_parts for statistic in self.statistics):
            yield from ((part, False) for part in list(reader.split(whole)) or [whole])
        yield whole, True


def _decodes_blocks() -> bool:
    """As ``decodes_blocks`` of the kernel, which is imported, with numba, when a pass first asks."""
    from analyze.statistics.peak_kernel import decodes_blocks

    return decodes_blocks()


def merged(statistics: Sequence[Reduction], several: Iterable[Found]) -> Found:
    """All of them together, in their order; none is changed."""
    total = Found(tuple({} for _ in statistics))
    for found in several:
        total.take_in(statistics, found)
    return total
