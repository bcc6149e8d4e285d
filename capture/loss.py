"""Next-token loss of given hidden states, through the model's own head, a block of positions at a time.

A logits tensor of 2048 positions x 201k tokens is 1.6 GB in float32; a block of it is bounded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from schemas.errors import CaptureError

__all__ = ["decoder_of", "token_nll"]


def decoder_of(model: Any) -> Any:
    """The module that turns token ids into final hidden states: ``get_decoder()``, else the base model, else the one
    model inside it (Llama 4's base is named ``language_model`` and kept as ``model``).

    Raises CaptureError where the model names none other than itself.
    """
    from transformers import PreTrainedModel

    decoder = model.get_decoder()
    if decoder is model or isinstance(decoder, nn.Linear):  # ModernBERT's output head is called decoder
        decoder = model.base_model
    if decoder is model:
        inside = [child for child in model.children() if isinstance(child, PreTrainedModel)]
        decoder = inside[0] if len(inside) == 1 else model
    if decoder is model:
        raise CaptureError(f"{type(model).__name__} names no decoder of its own")
    return decoder


def token_nll(model: Any, token_id: torch.Tensor, output: Any, block_positions: int) -> torch.Tensor:
    """(batch, position) float32: ``-log p(token | those before it)`` in nats; NaN at position 0.

    ``output`` is what the decoder returned for ``token_id``. The model's own ``forward`` is run with the decoder
    replaced by a block of its result, so that whatever the model does between its final norm and its logits (scaling,
    soft-capping) is done; logits are in the model's dtype, the log-softmax in float32.
    """
    batch, positions = token_id.shape
    nll = torch.full((batch, positions), float("nan"), dtype=torch.float32, device=token_id.device)
    hidden = output.last_hidden_state
    for start in range(0, positions - 1, block_positions):
        stop = min(start + block_positions, positions - 1)
        logits = _logits(model, token_id[:, start:stop], output, hidden[:, start:stop])
        targets = token_id[:, start + 1 : stop + 1].to(logits.device)  # a model may lie on several
        loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten().long(), reduction="none")
        nll[:, start + 1 : stop + 1] = loss.view(batch, stop - start)
    return nll


def _logits(model: Any, token_id: torch.Tensor, output: Any, hidden: torch.Tensor) -> torch.Tensor:
    decoder = decoder_of(model)
    calls = 0

    def replay(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return dataclasses.replace(output, last_hidden_state=hidden)

    with _forward_replaced(decoder, replay):
        logits: torch.Tensor = model(input_ids=token_id, use_cache=False).logits
    if calls != 1 or logits.shape[:2] != hidden.shape[:2]:
        raise CaptureError(
            f"{type(model).__name__}: its forward called the decoder {calls} times and gave logits of shape "
            f"{tuple(logits.shape)} for hidden states of shape {tuple(hidden.shape)}"
        )
    return logits


@contextmanager
def _forward_replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """While entered, ``module.forward`` is ``forward``: an instance attribute, as are those that accelerate sets."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
