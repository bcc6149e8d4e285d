"""The streamed engine: each layer runs apart from its model, with the arguments that the model gives it.

One layer's weights are in memory at a time. Running hidden states are kept beside the store after every layer, so a
crash costs one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch

from capture.batching import batches
from capture.engines.layer_major import run_layers
from capture.layer_calls import LayerCall, record_calls, run_with_last_hidden, share_equal_tensors
from capture.loss import decoder_of
from capture.observation import observe
from capture.plan import CapturePlan
from capture.resume import Draft, LayerCheckpoints
from capture.sink import Sink
from capture.weights.layer_weights import LayerWeights

__all__ = ["capture_streamed"]


class StreamedBatch:
    """A batch whose layers are called one by one: between two of them it is its hidden states and its peaks."""

    def __init__(self, weights: LayerWeights, sequences: range, wanted: Sequence[int], token_id: torch.Tensor) -> None:
        """Record what the model gives to each layer for ``token_id`` (batch, position); no layer computes."""
        self.sequences, self.wanted, self.token_id = sequences, wanted, token_id
        self.done, self.peaks = 0, dict[str, torch.Tensor]()
        self._layers, self._decoder = list(weights.layers), decoder_of(weights.model)
        self._calls = record_calls(self._decoder, self._layers, token_id)
        self._hidden = self._calls[0].hidden
        self._checkpoints: LayerCheckpoints | None = None

    def share_arguments(self, other: StreamedBatch) -> None:
        """Hold ``other``'s masks and rotary embeddings where they are equal."""
        for theirs, mine in zip(other._calls, self._calls, strict=True):
            share_equal_tensors(theirs, mine)

    def resume(self, checkpoints: LayerCheckpoints, sink: Sink) -> None:
        """Go on where ``checkpoints`` have this batch, and be kept there from now on."""
        self._checkpoints = checkpoints
        self.done, self._hidden, self.peaks = checkpoints.load(self.sequences, self.wanted, self._hidden, sink.sites)
        sink.vouch(range(self.done), self.wanted)

    def advance(self) -> None:
        """Run layer ``done``."""
        self._hidden = self._calls[self.done].run(self._layers[self.done], self._hidden)
        self.done += 1

    def output(self) -> Any:
        """The decoder's own end, after the last layer: its final norm and what follows."""
        ended = LayerCall((self._hidden,), {}, self._calls[-1].returns_tuple)
        return run_with_last_hidden(self._decoder, self._layers, self.token_id, ended)

    def draft(self) -> Draft | None:
        """Hidden states and position peaks."""
        if self._checkpoints is None:
            return None
        return self._checkpoints.draft(self.sequences, self.wanted, self.done, self._hidden, self.peaks)


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
    weights.model.eval()
    weights.load_outside()
    work: list[StreamedBatch] = []
    with torch.inference_mode():
        for sequences in batches(missing, plan.dimensions.sequences, plan.batch_size):
            ids = torch.from_numpy(token_id[sequences.start : sequences.stop]).to(device).long()
            wanted = [sequence for sequence in sequences if sequence in set(missing)]
            batch = StreamedBatch(weights, sequences, wanted, ids)
            if work:
                batch.share_arguments(work[0])
            batch.resume(checkpoints, sink)
            work.append(batch)
        with observe(weights.model, plan, dtype, sink) as observation:
            run_layers(weights, plan, work, sink, observation)
