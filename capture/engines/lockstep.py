"""The lockstep engine: real forwards, one per batch, each parked before every layer until that layer is loaded.

For models whose layers leave something for later ones, or that compute between their layers: whatever a forward holds
lives on in its own frames. The forwards are greenlets, not threads: they share one operating system thread, so that
torch's inference mode and thread count, which belong to a thread, hold in all of them, exactly one runs at a time,
and Ctrl-C reaches the one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy.typing as npt
import torch
from greenlet import getcurrent, greenlet
from torch import nn

from capture.batching import batches
from capture.engines.layer_major import run_layers
from capture.loss import decoder_of
from capture.observation import observe
from capture.plan import CapturePlan
from capture.sink import Sink
from capture.weights.layer_weights import LayerWeights
from schemas.errors import CaptureError

__all__ = ["capture_lockstep"]


class ParkedForward:
    """A batch in a forward of its own, which stands before layer ``done`` until it is told to advance."""

    def __init__(self, decoder: Any, sequences: range, wanted: Sequence[int], token_id: torch.Tensor) -> None:
        """Run ``decoder`` on ``token_id`` (batch, position) as far as its first layer, within ``parking``."""
        self.sequences, self.wanted, self.token_id = sequences, wanted, token_id
        self.done, self.peaks = 0, dict[str, torch.Tensor]()
        self._name = type(decoder).__name__
        self._output: Any = None
        self._forward = greenlet(lambda: decoder(input_ids=token_id, use_cache=False))
        self._go_on(0)

    def advance(self) -> None:
        """Go through layer ``done`` and on to the next one, or to the forward's end."""
        self.done += 1
        self._go_on(self.done)

    def output(self) -> Any:
        """What the decoder returned."""
        if not self._forward.dead:
            raise CaptureError(f"{self._name}: its forward is not at its end after {self.done} layers")
        return self._output

    def draft(self) -> None:
        """Nothing: a forward cannot be kept in a file."""

    def close(self) -> None:
        """Unwind a forward that is not at its end."""
        if not self._forward.dead:
            self._forward.throw()  # GreenletExit, which ends it without an error

    def _go_on(self, due: int) -> None:
        """Let the forward run until it parks, which must be before layer ``due``, or ends."""
        arrived = self._forward.switch()
        if self._forward.dead:
            self._output = arrived
        elif arrived != due:
            raise CaptureError(
                f"{self._name}: layer {arrived} ran where layer {due} was due, so its layers cannot be taken in order; "
                "use --engine resident"
            )


@contextmanager
def parking(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While entered, a forward that comes to one of ``layers`` hands its number to whoever let the forward run."""

    def park(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            getcurrent().parent.switch(index)

        return hook

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            # First of the layer's hooks: those of observers run when it does.
            stack.callback(layer.register_forward_pre_hook(park(index), prepend=True).remove)
        yield


def capture_lockstep(
    weights: LayerWeights,
    plan: CapturePlan,
    token_id: npt.NDArray[Any],
    missing: Sequence[int],
    sink: Sink,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Run the ``missing`` sequences of ``token_id`` (sequence, position) layer by layer, their sites into ``sink``.

    Raises CaptureError where a site does not fire exactly once, or where the model does not run each layer once and in
    order. What an error leaves parked is unwound.
    """
    decoder = decoder_of(weights.model.eval())
    weights.load_outside()
    # Parked forwards are unwound inside the inference mode that they were entered in, whose end they would undo.
    with torch.inference_mode(), ExitStack() as stack:
        # Before the forwards begin: a module that is being called, as a layer is where one parks, takes no more hooks.
        observation = stack.enter_context(observe(weights.model, plan, dtype, sink))
        stack.enter_context(parking(list(weights.layers)))
        work: list[ParkedForward] = []
        versions = [parameter._version for parameter in weights.layers.parameters()]  # counts changes in place
        for sequences in batches(missing, plan.dimensions.sequences, plan.batch_size):
            ids = torch.from_numpy(token_id[sequences.start : sequences.stop]).to(device).long()
            wanted = [sequence for sequence in sequences if sequence in set(missing)]
            work.append(ParkedForward(decoder, sequences, wanted, ids))
            stack.callback(work[-1].close)
            if [parameter._version for parameter in weights.layers.parameters()] != versions:
                raise CaptureError(
                    f"{type(decoder).__name__} changes the weights of its layers before they run, which are not there "
                    "yet; use --engine resident"
                )
        run_layers(weights, plan, work, sink, observation)
