"""The loop of the engines that hold one layer's weights at a time: all batches through it, then the next layer.

Engines differ in how they take a batch through a layer, which is a ``Passage``'s business. Weights are read, released
and read ahead here; cells are committed here, and what is needed to go on after a crash is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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

    Memory holds two layers: the one that computes and the next, which is read only after the one before was released.
    A layer begins when all before it would survive a crash. Runs in the caller's inference mode and
    within its ``observation``. Raises CaptureError where a site does not fire exactly once.
    """
    last = plan.dimensions.layers - 1
    order = range(min(passage.done for passage in passages), last + 1)
    with ExitStack() as stack:
        give_back = stack.enter_context(keep_small_blocks())
        wait_for = stack.enter_context(_read_ahead(weights, order))
        for index in order:
            wait_for(index)
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
            weights.release_layer(index)
            give_back()
            sink.settle().result()


@contextmanager
def _read_ahead(weights: LayerWeights, order: range) -> Iterator[Callable[[int], None]]:
    """Gives ``wait_for(index)``: returns when that layer is loaded, and has the next one read in the background.

    The layer before ``index`` must have been released: two are in memory, never three.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        reading: Future[None] = pool.submit(weights.load_layer, order.start)

        def wait_for(index: int) -> None:
            nonlocal reading
            reading.result()
            if index + 1 < order.stop:
                reading = pool.submit(weights.load_layer, index + 1)

        try:
            yield wait_for
        except BaseException:
            weights.shards.close()  # a shard that is being fetched is not waited for
            raise
