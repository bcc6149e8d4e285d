"""A sequence's peaks, from the arrays that capture reduced: what every preset needs, at every threshold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.thresholds.order import kth_largest
from analyze.thresholds.plan import Plan
from schemas.chunk_reading import read_whole_chunks
from schemas.errors import StoreError
from schemas.layout import layer_peak_name, nonfinite_name, position_peak_name
from schemas.one_ahead import one_ahead
from schemas.run import Run, is_url

__all__ = ["PeakSource", "SequencePeaks", "critical_patterns", "stored_peaks"]

Patterns = npt.NDArray[Any]


@dataclass(frozen=True)
class SequencePeaks:
    """What one sequence contributes, as sign-cleared patterns of the plan's encoding.

    ``layer``: (site, layer, feature), the maximum over positions; where a layer takes k hits to be affected, the k-th
    largest, and ``largest`` (feature,) is then the maximum of all. ``position``: (position, feature), the maximum
    over layers and chosen sites. ``nonfinite``: how many of the sequence's values are NaN or infinite.
    """

    sequence: int
    layer: Patterns
    position: Patterns
    nonfinite: int
    largest: Patterns | None = None


PeakSource = Callable[[], Iterator[SequencePeaks]]
"""Gives the peaks of each analysed sequence in turn; called again where an answer takes another pass."""


def stored_peaks(run: Run, plan: Plan) -> Iterator[SequencePeaks]:
    """The peaks that the store holds, two sequences in memory at a time.

    Raises StoreError where a peak was never written although its cell is committed, CorruptChunkError where a chunk
    fails its checksum.
    """
    return one_ahead(partial(_peaks_of, run, plan), plan.sequences)


def _peaks_of(run: Run, plan: Plan, sequence: int) -> SequencePeaks:
    layer = np.stack([_read(run, layer_peak_name(a), (slice(None), sequence)) for a in plan.arrays])
    position = _read(run, position_peak_name(plan.arrays[0]), (sequence,))
    for array in plan.arrays[1:]:
        np.maximum(position, _read(run, position_peak_name(array), (sequence,)), out=position)
    nonfinite = sum(int(_stored(run, nonfinite_name(a), (slice(None), sequence)).sum()) for a in plan.arrays)
    return SequencePeaks(sequence, layer, position, nonfinite)


def _stored(run: Run, name: str, index: tuple[int | slice, ...]) -> Patterns:
    """``run.read(name, index)``, without zarr-python where whole chunks of local files are read."""
    held = None if is_url(run.path) else read_whole_chunks(os.path.join(run.path, name), run.array(name), index)
    return run.read(name, index) if held is None else held


def _read(run: Run, name: str, index: tuple[int | slice, ...]) -> Patterns:
    patterns: Patterns = _stored(run, name, index).view(run.encoding.unsigned)
    if patterns.max(initial=0) > run.encoding.infinity:
        raise StoreError(
            f"{run.path}: {name} of sequence {index[-1]} has values that were never written, although the store says "
            "they are: a file is missing. Restore it from a copy, or capture the run again with --overwrite"
        )
    return patterns


def critical_patterns(
    layers: Patterns, positions: Patterns, layers_needed: int, positions_needed: int, least: int
) -> Patterns:
    """The largest magnitude at which each feature still meets both shares: (feature,) patterns, 0 if below ``least``.

    ``layers`` (layer unit, feature) and ``positions`` (position, feature) are peaks. m* of docs/definitions.md. Most
    features fail on layers already, and a sequence has far fewer of those than positions: the rest are looked at.
    """
    critical = kth_largest(layers, layers_needed)
    feature = np.flatnonzero(critical >= least)
    passing = positions if feature.size == critical.size else positions.take(feature, axis=1)
    on_positions = kth_largest(passing, positions_needed)
    found = np.zeros_like(critical)
    found[feature] = np.minimum(critical[feature], on_positions)
    found[found < least] = 0
    return found
