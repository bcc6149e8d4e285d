"""The out-of-core route: what the peaks would say, computed anew from the slices with Dask and xarray.

One sequence is in flight at a time and each chunk is reduced as soon as it is read, so memory is bounded by the
number of threads, not by the store. No array of stored peaks is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import compute

from analyze.peaks import SequencePeaks
from analyze.plan import Plan
from analyze.progress import Progress
from analyze.quantities import counted
from schemas.bits import Encoding, nonfinite_count, peak_bits
from schemas.dataset import open_run
from schemas.errors import StoreError
from schemas.layout import nonfinite_name
from schemas.run import Run

__all__ = ["open_slices", "sliced_peaks", "summed_over_chunks"]

Patterns = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]


def open_slices(run: Run, plan: Plan) -> xr.Dataset:
    """The slices of the chosen sites as stored bit patterns: Dask arrays, one chunk a file, nothing read yet."""
    return open_run(run.path, decoded=False, chunks={})[list(plan.sites)]


def _slices(dataset: xr.Dataset, site: str, sequence: int) -> Any:
    """(layer, position, feature) stored patterns of one sequence: a Dask array (whose methods mypy cannot follow)."""
    return dataset[site].isel(sequence=sequence).data


def sliced_peaks(run: Run, plan: Plan, progress: Progress) -> Iterator[SequencePeaks]:
    """The peaks of each analysed sequence, reduced from its slices.

    Raises CorruptChunkError where a chunk fails its checksum, StoreError where one has vanished: it would read as
    NaN, and the store's own count of non-finite values then disagrees.
    """
    dataset = open_slices(run, plan)
    for sequence in progress(plan.sequences, "slices"):
        reduced = [_reduce(_slices(dataset, site, sequence), plan.encoding) for site in plan.sites]
        position = reduced[0][1]
        for _, other, _ in reduced[1:]:
            position = da.maximum(position, other)
        layers, positions, nonfinite = _computed([r[0] for r in reduced], position, [r[2] for r in reduced])
        for array, found in zip(plan.arrays, nonfinite, strict=True):
            _check_nonfinite(run, array, sequence, found)
        yield SequencePeaks(sequence, np.stack(layers), positions, int(sum(n.sum() for n in nonfinite)))


def _computed(*lazy: Any) -> tuple[Any, ...]:
    """What ``lazy`` comes to, in one pass over their chunks: on the scheduler that Dask is set to, or on threads."""
    values: tuple[Any, ...] = compute(*lazy)  # type: ignore[no-untyped-call]
    return values


def _reduce(slices: Any, encoding: Encoding) -> tuple[Any, Any, Any]:
    """Lazy (layer, feature) peaks, (position, feature) peaks and (layer,) non-finite counts of one site."""
    layer_chunks, position_chunks, feature_chunks = slices.chunks
    layer = slices.map_blocks(
        lambda block: peak_bits(block, 1, encoding)[:, np.newaxis],
        dtype=encoding.unsigned,
        chunks=(layer_chunks, (1,) * len(position_chunks), feature_chunks),
    ).max(axis=1)
    position = slices.map_blocks(
        lambda block: peak_bits(block, 0, encoding)[np.newaxis],
        dtype=encoding.unsigned,
        chunks=((1,) * len(layer_chunks), position_chunks, feature_chunks),
    ).max(axis=0, split_every=2)
    nonfinite = slices.map_blocks(
        lambda block: np.full((1, 1, 1), nonfinite_count(block, encoding), np.int64),
        dtype=np.int64,
        chunks=tuple((1,) * len(axis) for axis in slices.chunks),
    ).sum(axis=(1, 2))
    return layer, position, nonfinite


def _check_nonfinite(run: Run, array: str, sequence: int, found: Counts) -> None:
    name = nonfinite_name(array)
    if name not in run:
        return
    stored = run.read(name, (slice(None), sequence)).astype(np.int64)
    for layer in np.flatnonzero(stored != found):
        words = counted(int(found[layer]), "non-finite value")
        raise StoreError(
            f"{run.path}: {array} of layer {layer}, sequence {sequence} has {words} and "
            f"the store says {stored[layer]:,}: a chunk is missing or was replaced. Restore it from a copy, or capture "
            "the run again with --overwrite"
        )


def summed_over_chunks(
    dataset: xr.Dataset, plan: Plan, sequence: int, kernel: Callable[[Patterns], Counts], size: int
) -> Counts:
    """The sum over one sequence's chunks, of all sites, of ``kernel(chunk)``: (size,) int64.

    ``kernel`` gets sign-bearing unsigned patterns of shape (position, feature) and returns (size,) counts, so what
    is held of a chunk is small.
    """
    sums = []
    for site in plan.sites:
        slices = _slices(dataset, site, sequence)
        layer_chunks, position_chunks, _ = slices.chunks
        partial = slices.map_blocks(
            lambda block: kernel(block.view(plan.encoding.unsigned).reshape(-1, block.shape[-1]))[None, None],
            dtype=np.int64,
            chunks=((1,) * len(layer_chunks), (1,) * len(position_chunks), (size,)),
        )
        sums.append(partial.sum(axis=(0, 1), split_every=4))
    total: Counts = sum(_computed(*sums), start=np.zeros(size, np.int64))
    return total
