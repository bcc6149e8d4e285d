"""The loop of the engines that hold one layer's weights at a time: all batches through it, then the next layer.

Engines differ in how they take a batch through a layer, which is a ``Passage``'s business. Weights are read, released
and read ahead here; cells are committed here, and what is needed to go on after a crash is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

import torch

from capture.heap import keep_any_block, keep_small_blocks
from capture.loss import token_nll
from capture.observation import Observation
from capture.plan import CapturePlan
from capture.resume import Draft
from capture.sink import Sink
from capture.weights.layer_weights import LayerWeights

__all__ = ["Passage", "run_layers"]


class Passage(Protocol):
    """One batch on its way through the layers."""

    sequences: range
    wanted: Sequence[int]
    """Those of its sequences that are written."""
    token_id: torch.Tensor
    """(batch, position), where the model runs."""
    done: int
    """Layers that it has been through."""
    peaks: dict[str, torch.Tensor]
    """Position peaks of those layers, by site."""

    def advance(self) -> None:
        """Go through layer ``done``, whose weights are loaded, and whatever the model does after it."""

    def output(self) -> Any:
        """What the decoder returns, after the last layer."""

    def draft(self) -> Draft | None:
        """What the next layer needs, to be made durable."""


def run_layers(
    weights: LayerWeights, plan: CapturePlan, passages: Sequence[Passage], sink: Sink, observation: Observation
) -> None:
    """Take ``passages`` through the layers of ``weights`` that they have not been through, their sites into ``sink``.

    Memory holds two layers: the one that computes and the next, read into what the one before has left.
    A layer begins when all before it would survive a crash. Runs in the caller's inference mode and
    within its ``observation``. Raises CaptureError where a site does not fire exactly once.
    """
    last = plan.dimensions.layers - 1
    order = range(min(passage.done for passage in passages), last + 1)
    with keep_small_blocks() as give_back, _ReadAhead(weights, order) as layers:
        for index in order:
            layers.wait_for(index)
            for passage in passages:
                if passage.done > index:
                    continue
                sink.begin(passage.sequences, passage.wanted, passage.peaks)
                observation.expect(len(passage.sequences), (index,))
                passage.advance()
                observation.check()
                passage.peaks = sink.position_peaks
                if index < last:
                    sink.finish_layer(index, passage.draft())
                    continue
                output = passage.output()
                with keep_any_block():  # those of logits; no layer is read beside them any more
                    loss = token_nll(weights.model, passage.token_id, output, plan.loss_block_positions)
                sink.finish(loss)
            layers.release(index)
            give_back()
            sink.settle().result()


class _ReadAhead:
    """Layers loaded in the background, in ``order``: two are in memory, never three.

    Within, the next but one is read as soon as a layer is released, while what came of that one is brought to the disk.
    """

    def __init__(self, weights: LayerWeights, order: range) -> None:
        self._weights = weights
        self._first = order.start
        self._to_come = iter(order)
        self._loading: dict[int, Future[None]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reader")

    def __enter__(self) -> _ReadAhead:
        self._read_next()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._weights.shards.close()  # a shard that is being fetched is not waited for
        self._pool.shutdown(cancel_futures=True)

    def wait_for(self, index: int) -> None:
        """Return when layer ``index`` is loaded; raises what stood in the way."""
        self._loading.pop(index).result()
        if index == self._first:  # no layer has been released, and half of the memory is free
            self._read_next()

    def release(self, index: int) -> None:
        """Let the memory of layer ``index`` have the next but one."""
        self._weights.release_layer(index)
        self._read_next()

    def _read_next(self) -> None:
        index = next(self._to_come, None)
        if index is not None:
            self._loading[index] = self._pool.submit(self._weights.load_layer, index)
