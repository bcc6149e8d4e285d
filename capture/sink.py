"""From hidden states to a store: peaks reduced where the tensor lives, slices written by threads.

They are written while the model runs where it leaves processors free, else while it waits (decision 041). Memory is
bounded: slices wait in a queue of at most so many bytes. A batch's cells are committed only after all its data is on
disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from capture.estimates import QUEUE_BYTES
from capture.host_buffers import HostBuffers
from capture.plan import CapturePlan
from capture.processors import processors
from capture.resume import DRAFTS_AT_ONCE, Draft, publish
from capture.writer_queue import WriterQueue
from schemas.durable import is_full
from schemas.errors import CaptureError, OutlierFeaturesError
from schemas.layout import ArraySpec, layer_peak_name, nonfinite_name, position_peak_name
from schemas.run_writer import RunWriter

__all__ = ["Sink"]

MOST_WRITERS = 8
"""Threads that write while the model waits: each has to hold Python's lock for a part of a chunk."""

SIGNED = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class _Ended:
    """A batch whose ``layers`` are to be committed for ``sequences`` once ``pending`` and ``rows`` are written.

    ``rows``, by array: (sequence, its values in those layers). ``draft`` is published before the commit.
    """

    layers: range
    sequences: Sequence[int]
    pending: Sequence[Future[None]]
    rows: Mapping[str, Sequence[tuple[int, npt.NDArray[Any]]]]
    draft: Draft | None
    complete: bool


class Sink:
    """Takes a batch's hidden states site by site and layer by layer, then its losses; writes and commits them.

    Use as a context manager: leaving it waits for everything to be committed, leaving it by an error drops what is
    still queued. Order of calls for each batch: ``begin``, ``cell`` for every (site, layer), ``finish``. An engine that
    takes all batches through one layer at a time calls ``begin``, ``cell`` for the layer's sites and ``finish_layer``,
    keeps ``position_peaks`` and hands them to the next ``begin``, and ``settle`` when all have been through it; for the
    last layer it calls ``finish``.
    """

    def __init__(
        self,
        writer: RunWriter,
        plan: CapturePlan,
        *,
        queue_bytes: int = QUEUE_BYTES,
        threads: int | None = None,
        beside: bool | None = None,
        committed: Callable[[int], None] = lambda sequences: None,
    ) -> None:
        """``committed(n)`` is called, from a writer thread, each time ``n`` more sequences are complete.

        ``beside``: whether data is written while the model runs; by default where it leaves processors free.
        """
        self._writer = writer
        self.sites = plan.stored_sites
        self._layers = plan.dimensions.layers
        self._encoding = plan.encoding
        self._keeps_slices = plan.retention.slices
        self._floor = plan.retention.least_pattern(plan.encoding)
        beside = plan.written_beside if beside is None else beside
        self._queue = WriterQueue(threads or _writers(beside), queue_bytes, beside=beside)
        self._on_commit = committed
        self._signed = SIGNED[plan.encoding.itemsize]
        self._batch = range(0)
        self._wanted: list[int] = []
        self._pending: list[Future[None]] = []
        self._ended: list[_Ended] = []
        self._commit: Future[None] | None = None
        self._unpublished: set[Draft] = set()
        self._by_layer = [
            spec
            for spec in plan.arrays
            if spec.dims[:2] == ("layer", "sequence") and spec.name not in (*self.sites, "committed")
        ]
        self._gathered: dict[str, dict[int, torch.Tensor]] = {}
        self._of_layers: dict[tuple[str, int], Future[None]] = {}
        self.position_peaks: dict[str, torch.Tensor] = {}
        self._scratch: torch.Tensor | None = None
        self._buffers = HostBuffers()

    def __enter__(self) -> Sink:
        """The sink itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish writing, or drop what is queued; a full disk becomes a CaptureError that says how to go on."""
        try:
            with self._explaining():
                self._queue.close(cancel=error is not None)
        finally:
            for draft in self._unpublished:
                draft.discard()
        # An engine waited for a commit that failed, or wrote itself.
        if isinstance(error, OSError) and (error is self._queue.error or is_full(error)):
            raise self._explained(error) from error

    def begin(
        self, batch: range, wanted: Sequence[int], position_peaks: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Start a batch of sequences, of which only those ``wanted`` are written.

        ``position_peaks``: per site, (batch, position, feature) patterns of the layers that it has been through.
        """
        self._batch = batch
        self._wanted = [sequence for sequence in batch if sequence in set(wanted)]
        self._pending = []
        self._gathered = {spec.name: {} for spec in self._by_layer}
        self.position_peaks = dict(position_peaks or {})

    def cell(self, site: str, layer: int, hidden: torch.Tensor) -> None:
        """One cell of the batch: ``hidden`` is (batch, position, feature) in the store's dtype, in layer order."""
        due = max(self._gathered[layer_peak_name(site)], default=layer - 1) + 1
        if layer != due:
            raise CaptureError(f"{site}: layer {layer} came where layer {due} was due")
        bits = hidden.contiguous().view(self._signed)
        if self._scratch is None or self._scratch.shape != bits.shape or self._scratch.device != bits.device:
            self._scratch = torch.empty_like(bits)
        magnitude = torch.bitwise_and(bits, self._encoding.sign_mask - 1, out=self._scratch)
        kept = bits.masked_fill(magnitude < self._floor, 0) if self._floor else bits  # NaN is above every floor
        # Asking an accelerator would wait for it: there, count always.
        peak = magnitude.amax(dim=1) if bits.device.type == "cpu" else None
        if peak is None or bool((peak >= self._encoding.infinity).any()):
            nonfinite = (magnitude >= self._encoding.infinity).sum(dim=(1, 2))
            magnitude.masked_fill_(magnitude > self._encoding.infinity, 0)  # a NaN is never a hit
            peak = magnitude.amax(dim=1)
        else:
            nonfinite = torch.zeros(bits.shape[0], dtype=torch.int64)
        self.observe(layer_peak_name(site), layer, peak)
        self.observe(nonfinite_name(site), layer, nonfinite)
        if site in self.position_peaks:
            running = self.position_peaks[site].to(bits.device)  # layers may lie on several
            self.position_peaks[site] = torch.maximum(running, magnitude, out=running)
        else:
            self.position_peaks[site] = magnitude.clone()
        if not self._keeps_slices:
            return
        self._write_copy(site, (layer,), kept)  # the model may go on to change the tensor in place

    def observe(self, name: str, layer: int, values: torch.Tensor) -> None:
        """What the batch's sequences have in one layer of the array ``name``, whose dims begin with layer, sequence.

        ``values`` is (batch, ...) with items of the array's size, which are stored as they are: signed patterns for
        unsigned ones. A layer of which nothing is observed (routing, in a dense one) is stored as fill.
        """
        self._gathered[name][layer] = values

    def observe_layer(self, name: str, layer: int, values: torch.Tensor) -> None:
        """What all sequences have in one layer of the array ``name``, whose dims begin with layer alone.

        It is written the first time that it is observed, and no cell is committed before it is on disk.
        """
        if (name, layer) not in self._of_layers:
            self._write(name, (layer,), values.cpu().numpy())
            self._of_layers[name, layer] = self._pending[-1]

    def finish(self, token_nll: torch.Tensor) -> None:
        """End the batch: its peaks, counts and ``token_nll`` (batch, position), then, all written, its commit."""
        for site in self.sites:
            self._write_copy(position_peak_name(site), (), self.position_peaks[site])
        losses = token_nll.float().cpu().numpy()
        for sequence in self._wanted:
            self._write("token_nll", (sequence,), losses[sequence - self._batch.start])
        first = min(self._gathered[layer_peak_name(self.sites[0])])  # the last alone, where layers ended one by one
        self._finish(range(first, self._layers), complete=True)
        self.settle()

    def finish_layer(self, layer: int, draft: Draft | None) -> None:
        """End one layer of the batch: its peaks and counts; ``draft`` holds what the next layer needs after a crash.

        The batch's cells are committed when all this is on the disk, which ``settle`` has begun.
        """
        self._finish(range(layer, layer + 1), draft=draft)
        if len(self._ended) == DRAFTS_AT_ONCE:
            self._settle_early()

    def settle(self) -> Future[None]:
        """Have what was given so far written, where that waits for the model to wait, and what has ended committed.

        The result is done when the commit is, and those before it: batches share one, as each waits for the disk.
        """
        ended, self._ended = self._ended, []
        rows = [self._write_rows(spec.name, ended) for spec in self._by_layer if ended]
        with self._explaining():
            self._queue.settle()
        before = self._commit

        def commit() -> None:
            if before is not None:  # a draft vouches for all layers up to its own
                before.result()
            for future in (*rows, *(future for each in ended for future in each.pending)):
                future.result()
            drafts = [each.draft for each in ended if each.draft is not None]
            if drafts:  # they vouch for the data of their layers, so that comes first
                self._writer.flush()
                publish(drafts)
                self._unpublished.difference_update(drafts)
            for layers in dict.fromkeys(each.layers for each in ended):
                self._writer.commit(layers, [q for each in ended if each.layers == layers for q in each.sequences])
            if complete := sum(len(each.sequences) for each in ended if each.complete):
                self._on_commit(complete)

        self._commit = self._queue.put_waiting(commit, 0)
        return self._commit

    def _settle_early(self) -> None:
        """``settle`` once the commit before is done: the disk holds no more drafts beside those that they replace."""
        before = self._commit
        self.settle()
        if before is not None:
            before.result()

    def vouch(self, layers: range, sequences: Sequence[int]) -> None:
        """Commit cells whose data an earlier run brought to the disk without coming to commit them."""
        if layers and not self._writer.committed()[layers.start : layers.stop, list(sequences)].all():
            self._writer.commit(layers, sequences)

    def _finish(self, layers: range, *, draft: Draft | None = None, complete: bool = False) -> None:
        """Keep what was observed in ``layers`` until it is settled, when the batch is written and then committed."""
        rows = {}
        for spec in self._by_layer:
            values = self._stacked(spec, layers)
            rows[spec.name] = [(sequence, values[:, sequence - self._batch.start]) for sequence in self._wanted]
        size = sum(map(_row_bytes, rows.values())) + (0 if draft is None else draft.size_bytes)
        self._reserve(size)  # at once: what waits in part for the rest of itself would wait for ever
        pending = [*self._pending, *self._of_layers.values()]
        if draft is not None:
            self._unpublished.add(draft)
            pending.append(self._queue.put_waiting(draft.write, draft.size_bytes))
        self._ended.append(_Ended(layers, self._wanted, pending, rows, draft, complete))

    def _write_rows(self, name: str, ended: Sequence[_Ended]) -> Future[None]:
        """Have the rows of the array ``name`` written, those of all batches together."""
        parts = [
            ((slice(each.layers.start, each.layers.stop), sequence), values)
            for each in ended
            for sequence, values in each.rows[name]
        ]
        size = sum(_row_bytes(each.rows[name]) for each in ended)
        return self._queue.put_waiting(lambda: self._writer.write_parts(name, parts), size)

    def _stacked(self, spec: ArraySpec, layers: range) -> npt.NDArray[Any]:
        """(layer, batch, ...) of one array as it is stored, fill where nothing was observed."""
        held = self._gathered[spec.name]
        values = np.full((len(layers), len(self._batch), *spec.shape[2:]), spec.fill, spec.dtype)
        seen = [layer for layer in layers if layer in held]
        if seen:
            device = held[seen[-1]].device
            observed = torch.stack([held[layer].to(device) for layer in seen]).cpu().numpy()
            values[[layer - layers.start for layer in seen]] = observed.view(spec.dtype)
        return values

    def _write(self, name: str, index: tuple[int | slice, ...], values: npt.NDArray[Any]) -> None:
        self._put(lambda: self._writer.write(name, index, values), values.nbytes)

    def _write_copy(self, name: str, before: tuple[int, ...], bits: torch.Tensor) -> None:
        """Write ``bits`` (sequence, position, feature) as they are now, each sequence's at (*before, sequence)."""
        wanted, start, host = self._wanted, self._batch.start, self._buffers.copy(bits)

        def write() -> None:
            host.arrived()
            values = self._stored(host.tensor)
            for sequence in wanted:
                self._writer.write(name, (*before, sequence), values[sequence - start])
            self._buffers.give_back(host.tensor)

        self._put(write, host.tensor.nbytes)

    def _put(self, task: Callable[[], None], size: int) -> None:
        self._reserve(size)
        self._pending.append(self._queue.put(task, size))

    def _reserve(self, size: int) -> None:
        """Have ``size`` bytes wait; where there is no room, what waits for the model to wait is written now."""
        if not self._queue.has_room(size):
            self._settle_early()
        with self._explaining():
            self._queue.reserve(size)

    def _stored(self, bits: torch.Tensor) -> npt.NDArray[Any]:
        """A host tensor of patterns as the NumPy dtype that the store keeps; no copy."""
        return bits.numpy().view(self._encoding.stored)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise self._explained(failure) from failure

    def _explained(self, failure: OSError) -> OutlierFeaturesError:
        if isinstance(failure, OutlierFeaturesError):
            return failure
        if is_full(failure):
            return CaptureError(
                f"the disk is full: {self._writer.path}. What is committed is safe; make room and run the same "
                "command again"
            )
        return CaptureError(f"cannot write to {self._writer.path}: {failure.strerror or failure}")


def _row_bytes(rows: Sequence[tuple[int, npt.NDArray[Any]]]) -> int:
    return sum(values.nbytes for _, values in rows)


def _writers(beside: bool) -> int:
    """Threads: half of the processors beside the model, all of them while it waits."""
    return max(1, min(4, (os.cpu_count() or 2) // 2)) if beside else min(MOST_WRITERS, processors())
