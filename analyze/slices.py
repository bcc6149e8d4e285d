"""The out-of-core route: what the peaks would say, computed anew from the slices in one pass.

No array of stored peaks is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.peaks import SequencePeaks
from analyze.plan import Plan
from analyze.progress import Progress
from analyze.quantities import counted
from analyze.resources import Resources
from analyze.statistics.measure import prepare
from analyze.statistics.passes import Pass
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from analyze.statistics.piece import Piece
from analyze.statistics.scheduler import open_scheduler
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Key, Partial, Partials, Statistic
from analyze.statistics.work import Excluded
from schemas.errors import StoreError
from schemas.layout import nonfinite_name
from schemas.run import Run

__all__ = ["excluded_words", "sliced_peaks", "summed_over_slices"]

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
    chosen = _chosen(plan)
    with _pass(run, chosen, [LayerPeaks(), PositionPeaks()], resources) as made:
        for sequence, found in made.by_sequence(progress):
            excluded += found.excluded
            layer, position = found.partials
            absent = {(e.site, e.layer) for e in found.excluded}
            _check_nonfinite(run, chosen, sequence, layer, absent)
            yield SequencePeaks(
                sequence,
                _layers(run, chosen, sequence, layer),
                _positions(run, position),
                sum(int(partial["nonfinite"]) for partial in layer.values()),
            )


def _chosen(plan: Plan) -> Chosen:
    d = plan.dimensions
    layers = tuple(range(d.layers))
    return Chosen(plan.sites, plan.arrays, layers, plan.sequences, 0, d.positions, None, False)


@contextmanager
def _pass(run: Run, chosen: Chosen, statistics: list[Statistic], resources: Resources) -> Iterator[Pass]:
    with open_scheduler(resources.scheduler, resources.processors) as scheduler:
        plan = prepare(run, chosen, statistics, resources, scheduler, streamed=True)
        yield Pass(run.path, plan, statistics, scheduler, resources.skip_corrupt)


def _layers(run: Run, chosen: Chosen, sequence: int, partials: Partials) -> Patterns:
    """(site, layer, feature)."""
    shape = (len(chosen.sites), len(chosen.layers), run.dimensions.features)
    peaks = np.zeros(shape, run.encoding.unsigned)
    for i, site in enumerate(chosen.sites):
        for layer in chosen.layers:
            held = partials.get(Key(site, layer, sequence, None))
            if held is not None:
                peaks[i, layer] = held["layer_peak"]
    return peaks


def _positions(run: Run, partials: Partials) -> Patterns:
    """(position, feature)."""
    d = run.dimensions
    if len(partials) == 1:
        (partial,) = partials.values()
        return partial["position_peak"]
    peaks = np.zeros((d.positions, d.features), run.encoding.unsigned)
    for key, partial in partials.items():
        start = key.start or 0
        peaks[start : start + len(partial["position_peak"])] = partial["position_peak"]
    return peaks


def _check_nonfinite(run: Run, chosen: Chosen, sequence: int, partials: Partials, absent: set[tuple[str, int]]) -> None:
    for site, array in zip(chosen.sites, chosen.arrays, strict=True):
        if nonfinite_name(array) not in run:
            continue
        stored = run.read(nonfinite_name(array), (slice(None), sequence)).astype(np.int64)
        for layer in chosen.layers:
            if (site, layer) in absent:
                continue
            found = int(partials[Key(site, layer, sequence, None)]["nonfinite"])
            if found != stored[layer]:
                raise StoreError(
                    f"{run.path}: {array} of layer {layer}, sequence {sequence} has "
                    f"{counted(found, 'non-finite value')} and the store says {stored[layer]:,}: a chunk is missing or "
                    "was replaced. Restore it from a copy, or capture the run again with --overwrite"
                )


@dataclass(frozen=True)
class _KernelSums(Statistic):
    """The sum over one sequence's pieces of what a function of their signed patterns counts."""

    kernel: Callable[[Patterns], Counts]
    size: int

    name: ClassVar[str] = "kernel_sums"
    keeps: ClassVar[frozenset[str]] = frozenset({"sequence"})

    def partial_bytes(self, rows: int, features: int) -> int:
        return 8 * self.size

    def chunk(self, piece: Piece) -> Partial:
        return {"sum": self.kernel(piece.patterns)}

    def combine(self, first: Partial, second: Partial) -> Partial:
        return {"sum": first["sum"] + second["sum"]}

    def finalize(self, partials: Partials, context: Any) -> Any:
        raise NotImplementedError  # its sums are taken by sequence


def summed_over_slices(
    run: Run,
    plan: Plan,
    kernel: Callable[[Patterns], Counts],
    size: int,
    progress: Progress,
    label: str,
    resources: Resources,
) -> Iterator[tuple[int, Counts]]:
    """(sequence, sum over its pieces of ``kernel(piece)``) of each analysed sequence: (size,) int64.

    ``kernel`` gets sign-bearing unsigned patterns of shape (position, feature) and returns (size,) counts, so what
    is held of a piece is small.
    """
    chosen = _chosen(plan)
    with _pass(run, chosen, [_KernelSums(kernel, size)], resources) as made:
        for sequence, found in made.by_sequence(progress, label):
            (partials,) = found.partials
            yield sequence, sum((held["sum"] for held in partials.values()), start=np.zeros(size, np.int64))


def excluded_words(excluded: list[Excluded]) -> tuple[str, ...]:
    """What was left out, each once: ``ln_mlp of layer 3, sequence 0``."""
    return tuple(dict.fromkeys(f"{e.site} of layer {e.layer}, sequence {e.sequence}" for e in excluded))
