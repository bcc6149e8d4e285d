"""The out-of-core route: what the peaks would say, and what only slices can, computed from them in one pass.

No array of stored peaks is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.progress import Progress
from analyze.quantities import counted
from analyze.resources import Resources
from analyze.statistics.layer_units import LayerLevels, LayerUnitHits, UnitPositionPeaks, signed_patterns
from analyze.statistics.measure import prepare
from analyze.statistics.passes import Pass
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from analyze.statistics.piece import Piece
from analyze.statistics.scheduler import open_scheduler
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Key, Partial, Partials, Reduction
from analyze.statistics.work import Excluded, Found
from analyze.thresholds.counting import SequenceCounts
from analyze.thresholds.order import count_blocks
from analyze.thresholds.peaks import SequencePeaks
from analyze.thresholds.plan import Plan
from schemas.errors import CorruptChunkError, StoreError
from schemas.layout import nonfinite_name
from schemas.run import Run

__all__ = ["excluded_words", "sliced_counts", "sliced_peaks", "summed_over_slices"]

Patterns = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]


def sliced_peaks(
    run: Run, plan: Plan, progress: Progress, resources: Resources, excluded: list[Excluded]
) -> Iterator[SequencePeaks]:
    """The peaks of each analysed sequence, reduced from its slices.

    A cell that cannot be read is added to ``excluded`` where ``resources`` say that it is to be skipped, and has no
    hits; otherwise raises CorruptChunkError. Raises StoreError where a cell does not have as many non-finite values as
    the store says: its chunk was replaced by another.
    """
    chosen, others = _as_units(plan) if plan.minimum_hits > 1 else (plan.chosen, ())
    plain = plan.minimum_hits == 1 and not chosen.in_gain_units
    statistics: list[Reduction] = [LayerPeaks(), PositionPeaks()]
    if not plain:
        statistics = [LayerLevels(others, plan.question.definition.minimum_hits), UnitPositionPeaks(others)]
    with _pass(run, chosen, statistics, resources) as made:
        for sequence, found in made.by_sequence(progress):
            excluded += _left_out(plan, chosen, found)
            layer, position = found.partials
            _check_nonfinite(run, plan, chosen, sequence, found, resources)
            yield SequencePeaks(
                sequence,
                _layers(plan, chosen, sequence, layer, "layer_peak" if plain else "level"),
                _positions(plan, sequence, position),
                _nonfinite(layer),
                None if plain else _largest(plan, layer),
            )


def sliced_counts(
    run: Run,
    plan: Plan,
    progress: Progress,
    resources: Resources,
    excluded: list[Excluded],
    *,
    cells_by_layer: bool = False,
) -> Iterator[SequenceCounts]:
    """Hits of each analysed sequence at the plan's thresholds; otherwise as ``sliced_peaks``.

    ``cells_by_layer``: of blocks, also the hits of each one's cells together.
    """
    chosen, others = _as_units(plan)
    union = plan.question.definition.position_coverage == "union"
    statistics: list[Reduction] = [LayerUnitHits(others, plan.thresholds)]
    if union:
        statistics.append(UnitPositionPeaks(others))
    features = plan.dimensions.features
    with _pass(run, chosen, statistics, resources) as made:
        for sequence, found in made.by_sequence(progress, "hits"):
            excluded += _left_out(plan, chosen, found)
            _check_nonfinite(run, plan, chosen, sequence, found, resources)
            layer = found.partials[0]
            cells = np.zeros((features, len(plan.thresholds)), np.int64)
            hits = np.zeros((len(chosen.sites), len(chosen.layers), *cells.shape), np.uint32)
            of_cells = np.zeros_like(hits) if others and cells_by_layer else None
            for key, held in layer.items():
                hits[_place(chosen, key)] = held["hits"]
                cells += held.get("cell_hits", held["hits"])
                if of_cells is not None:
                    of_cells[_place(chosen, key)] = held["cell_hits"]
            positions = None
            if union:
                peaks, positions = _positions(plan, sequence, found.partials[1]), np.zeros_like(cells)
                for block, counts in count_blocks(peaks, plan.thresholds):
                    positions[block] = counts
            yield SequenceCounts(
                sequence,
                plan.positions_of[plan.sequences.index(sequence)],
                hits.reshape(-1, *cells.shape),
                cells,
                positions,
                _largest(plan, layer),
                _nonfinite(layer),
                None if of_cells is None else of_cells.reshape(-1, *cells.shape),
            )


def _left_out(plan: Plan, chosen: Chosen, found: Found) -> list[Excluded]:
    """The cells that were left out: of a block, all of its sites'."""
    if chosen.sites == plan.sites:
        return list(found.excluded)
    return [replace(one, site=site) for one in found.excluded for site in plan.sites]


def _as_units(plan: Plan) -> tuple[Chosen, tuple[str, ...]]:
    """What a pass reads, and the arrays beside each piece: of blocks, the first site, and those of the others."""
    chosen = plan.chosen
    if plan.question.definition.layer_unit == "cell":
        return chosen, ()
    return replace(chosen, sites=chosen.sites[:1], arrays=chosen.arrays[:1]), chosen.arrays[1:]


@contextmanager
def _pass(run: Run, chosen: Chosen, statistics: list[Reduction], resources: Resources) -> Iterator[Pass]:
    with open_scheduler(resources.scheduler, resources.processors) as scheduler:
        plan = prepare(run, chosen, statistics, resources, scheduler, streamed=True)
        yield Pass(run, plan, statistics, scheduler, resources.skip_corrupt)


def _place(chosen: Chosen, key: Key) -> tuple[int, int]:
    """Where a cell is among the chosen sites and layers."""
    assert key.site is not None
    assert key.layer is not None
    return chosen.sites.index(key.site), chosen.layers.index(key.layer)


def _layers(plan: Plan, chosen: Chosen, sequence: int, partials: Partials, name: str) -> Patterns:
    """(site, layer, feature) of ``name``."""
    shape = (len(chosen.sites), len(chosen.layers), plan.dimensions.features)
    peaks = np.zeros(shape, plan.encoding.unsigned)
    for key, held in partials.items():
        peaks[_place(chosen, key)] = held[name]
    return peaks


def _largest(plan: Plan, partials: Partials) -> Patterns:
    """(feature,), over all layers."""
    largest = np.zeros(plan.dimensions.features, plan.encoding.unsigned)
    for held in partials.values():
        np.maximum(largest, held["layer_peak"], out=largest)
    return largest


def _nonfinite(partials: Partials) -> int:
    return sum(int(held["nonfinite"]) for held in partials.values())


def _positions(plan: Plan, sequence: int, partials: Partials) -> Patterns:
    """(chosen position, feature)."""
    if len(partials) == 1:
        (partial,) = partials.values()
        return partial["position_peak"]
    rows = plan.positions_of[plan.sequences.index(sequence)]
    peaks = np.zeros((rows, plan.dimensions.features), plan.encoding.unsigned)
    for key, partial in partials.items():
        start = key.start or 0
        peaks[start : start + len(partial["position_peak"])] = partial["position_peak"]
    return peaks


def _check_nonfinite(run: Run, plan: Plan, chosen: Chosen, sequence: int, found: Found, resources: Resources) -> None:
    """Where all positions of the sites' own values are read, against counts that can be read or must be."""
    if min(plan.positions_of) < plan.dimensions.positions or chosen.in_gain_units or chosen.sites != plan.sites:
        return
    partials, absent = found.partials[0], {(e.site, e.layer) for e in found.excluded}
    for site, array in zip(chosen.sites, chosen.arrays, strict=True):
        if nonfinite_name(array) not in run:
            continue
        try:
            stored = run.read(nonfinite_name(array), (slice(None), sequence)).astype(np.int64)
        except CorruptChunkError:
            if not resources.skip_corrupt:
                raise
            continue  # nothing rests on it: the values themselves were counted
        for layer in chosen.layers:
            if (site, layer) in absent:
                continue
            held = int(partials[Key(site, layer, sequence, None)]["nonfinite"])
            if held != stored[layer]:
                raise StoreError(
                    f"{run.path}: {array} of layer {layer}, sequence {sequence} has "
                    f"{counted(held, 'non-finite value')} and the store says {stored[layer]:,}: a chunk is missing or "
                    "was replaced. Restore it from a copy, or capture the run again with --overwrite"
                )


@dataclass(frozen=True)
class _KernelSums(Reduction):
    """The sum over one sequence's pieces of what a function of their signed patterns counts."""

    kernel: Callable[[Patterns], Counts]
    size: int

    name: ClassVar[str] = "kernel_sums"
    keeps: ClassVar[frozenset[str]] = frozenset({"sequence"})

    def partial_bytes(self, rows: int, features: int) -> int:
        return 8 * self.size

    def chunk(self, piece: Piece) -> Partial:
        return {"sum": self.kernel(signed_patterns(piece))}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {"sum": first["sum"] + second["sum"]}


def summed_over_slices(
    run: Run,
    plan: Plan,
    kernel: Callable[[Patterns], Counts],
    size: int,
    progress: Progress,
    label: str,
    resources: Resources,
    excluded: list[Excluded],
) -> Iterator[tuple[int, Counts]]:
    """(sequence, sum over its pieces of ``kernel(piece)``) of each analysed sequence: (size,) int64.

    ``kernel`` gets sign-bearing unsigned patterns of the plan's encoding, (position, feature), and returns
    (size,) counts, so what is held of a piece is small. ``excluded`` as in ``sliced_peaks``.
    """
    with _pass(run, plan.chosen, [_KernelSums(kernel, size)], resources) as made:
        for sequence, found in made.by_sequence(progress, label):
            excluded += found.excluded
            (partials,) = found.partials
            yield sequence, sum((held["sum"] for held in partials.values()), start=np.zeros(size, np.int64))


def excluded_words(excluded: list[Excluded]) -> tuple[str, ...]:
    """What was left out, each once: ``ln_mlp of layer 3, sequence 0``."""
    return tuple(dict.fromkeys(f"{e.site} of layer {e.layer}, sequence {e.sequence}" for e in excluded))
