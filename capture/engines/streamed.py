"""The streamed engine: one layer's weights in memory at a time, all batches through it, then the next layer.

The model lies on the meta device. Each layer is read once, run on all batches and released, while the next one is being
read. Running hidden states are kept beside the store after every layer, so a crash costs one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch

from capture.layer_calls import LayerCall, carries_state, record_calls, run_with_last_hidden, share_equal_tensors
from capture.layer_weights import LayerWeights
from capture.loss import decoder_of, token_nll
from capture.observation import observe
from capture.plan import CapturePlan, batches
from capture.resume import LayerCheckpoints
from capture.sink import Sink

__all__ = ["capture_streamed"]


@dataclass
class _Batch:
    """One batch on its way: ``hidden`` is what layer ``done`` is given, ``peaks`` those of the layers before it."""

    sequences: range
    token_id: torch.Tensor
    calls: list[LayerCall]
    hidden: torch.Tensor
    done: int = 0
    peaks: dict[str, torch.Tensor] = field(default_factory=dict)


def capture_streamed(
    weights: LayerWeights,
    plan: CapturePlan,
    token_id: npt.NDArray[Any],
    missing: Sequence[int],
    sink: Sink,
    checkpoints: LayerCheckpoints,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Run the ``missing`` sequences of ``token_id`` (sequence, position) layer by layer, their sites into ``sink``.

    Raises CaptureError where a site does not fire exactly once, or where the model does more between its layers than
    hand hidden states on.
    """
    model = weights.model.eval()
    decoder, layers = decoder_of(model), weights.layers
    weights.load_outside()
    with torch.inference_mode():
        work = [
            _start(decoder, weights, token_id, sequences, device)
            for sequences in batches(missing, plan.dimensions.sequences, plan.batch_size)
        ]
    for batch in work[1:]:
        for first, other in zip(work[0].calls, batch.calls, strict=True):
            share_equal_tensors(first, other)
    if carries_state(work[0].calls):  # what earlier layers left cannot be kept: start from the first layer
        checkpoints = LayerCheckpoints(None)
    for batch in work:
        batch.done, batch.hidden, batch.peaks = checkpoints.load(batch.sequences, batch.hidden, sink.sites)

    last = len(layers) - 1
    order = range(min(batch.done for batch in work), last + 1)
    with (
        _read_ahead(weights, order) as wait_for,
        torch.inference_mode(),
        observe(model, plan, dtype, sink) as observation,
    ):
        committing: list[Future[None]] = []
        for index in order:
            wait_for(index)
            before, committing = committing, []
            for batch in work:
                if batch.done > index:
                    continue
                call = batch.calls[index]
                sink.begin(batch.sequences, missing, batch.peaks)
                observation.expect(len(batch.sequences), (index,))
                batch.hidden = call.run(layers[index], batch.hidden)
                observation.check()
                batch.peaks, batch.done = sink.position_peaks, index + 1
                if index < last:
                    saver = checkpoints.saver(batch.sequences, batch.done, batch.hidden, batch.peaks)
                    committing.append(sink.finish_layer(index, *saver))
                    continue
                ended = LayerCall((batch.hidden,), {}, call.returns_tuple)
                output = run_with_last_hidden(decoder, list(layers), batch.token_id, ended)
                sink.finish(token_nll(model, batch.token_id, output, plan.loss_block_positions))
            weights.release_layer(index)
            for commit in before:  # never more than one layer ahead of what would survive a crash
                commit.result()


def _start(
    decoder: object, weights: LayerWeights, token_id: npt.NDArray[Any], sequences: range, device: torch.device
) -> _Batch:
    ids = torch.from_numpy(token_id[sequences.start : sequences.stop]).to(device).long()
    calls = record_calls(decoder, list(weights.layers), ids)
    return _Batch(sequences, ids, calls, calls[0].hidden)


@contextmanager
def _read_ahead(weights: LayerWeights, order: range) -> Iterator[Callable[[int], None]]:
    """Gives ``wait_for(index)``: returns when that layer is loaded, and has the next one read in the background."""
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        reading: Future[None] = pool.submit(weights.load_layer, order.start)

        def wait_for(index: int) -> None:
            nonlocal reading
            reading.result()
            if index + 1 < order.stop:
                reading = pool.submit(weights.load_layer, index + 1)

        yield wait_for
