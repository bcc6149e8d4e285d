"""What ties the layers of a model together beyond the hidden states that go from one to the next.

Found without weights: the decoder runs an identity pass on stand-ins that take no memory, in which no layer computes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from capture.layer_calls import carries_state, record_calls
from capture.loss import decoder_of
from capture.sites import decoder_layers
from schemas.errors import CaptureError, InputError

__all__ = ["APART", "Coupling", "coupling_of"]

MOST_POSITIONS = 4093
"""A prime, so that no other dimension equals it: how arguments grow with the length is seen in their shapes."""


@dataclass(frozen=True)
class Coupling:
    """Why a model's layers cannot run apart from it, in words, None where they can; and what they are given beside it.

    ``argument_bytes`` are those of all layers' arguments for one sequence, hidden states included, each tensor once.
    """

    reason: str | None = None
    argument_bytes: int = 0


APART = Coupling()
"""Layers that run apart from their model."""


def coupling_of(model: Any, length: int) -> Coupling:
    """What ties the layers of ``model``, on the meta device, together where its sequences have ``length`` positions.

    Anything that goes wrong in the pass counts as a reason: a real forward, which needs no such pass, is then safe.
    Raises InputError where layers are given other positions than those of the tokens (CPM-Ant puts a prompt before
    them): a store has no place for those.
    """
    model = copy.deepcopy(model).eval()  # a forward may leave its mark
    try:
        decoder, layers = decoder_of(model), decoder_layers(model)[1]
    except CaptureError as error:
        return Coupling(str(error))
    held = [*decoder.named_parameters(), *decoder.named_buffers()]
    stand_ins = {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in held}
    inside = set(layers.buffers())
    # Rotary frequencies may be written during a forward, by the sequence's length (longrope): memory of their own.
    outside = {name: tensor for name, tensor in decoder.named_buffers() if tensor not in inside}
    stand_ins |= {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in outside.items()}
    token_id = torch.zeros((1, max(1, min(length, MOST_POSITIONS))), dtype=torch.long)
    with torch.inference_mode(), _arguments(list(layers)) as (arguments, entered):
        try:
            calls = record_calls(decoder, list(layers), token_id, stand_ins)
        except CaptureError as error:
            reason: str | None = str(error)
        else:
            shared = carries_state(calls)
            name = type(decoder).__name__
            reason = None if shared is None else f"layers of {name} leave something in {shared} for later ones"
        _require_positions(decoder, entered, token_id.shape[1])
        return Coupling(reason, sum(_bytes(tensor, token_id.shape[1], length) for tensor in arguments.values()))


def _require_positions(decoder: Any, entered: Sequence[Any], positions: int) -> None:
    """Raise InputError where a tensor that ``entered`` the first layer has no dimension of ``positions``."""
    for hidden in entered:
        if isinstance(hidden, torch.Tensor) and positions not in hidden.shape:
            raise InputError(
                f"{type(decoder).__name__} gives its layers hidden states of shape {tuple(hidden.shape)} for a "
                f"sequence of {positions} tokens: a store has no place for positions that are no tokens', so this "
                "model cannot be captured"
            )


@contextmanager
def _arguments(layers: Sequence[nn.Module]) -> Iterator[tuple[dict[int, torch.Tensor], list[Any]]]:
    """While entered, holds each tensor that a layer of the latest forward was given, by where it lies in memory, and
    the hidden states among what the first was given in any forward."""
    given: dict[int, torch.Tensor] = {}
    entered: list[Any] = []

    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        if module is layers[0]:
            given.clear()
            entered.append(kwargs.get("hidden_states", args[0] if args else None))
        leaves = pytree.tree_leaves((args, kwargs))
        given.update((each.untyped_storage().data_ptr(), each) for each in leaves if isinstance(each, torch.Tensor))

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield given, entered
    finally:
        for handle in handles:
            handle.remove()


def _bytes(tensor: torch.Tensor, positions: int, length: int) -> int:
    """What ``tensor``'s memory takes at ``length``: it grows with each of up to two dimensions of ``positions``."""
    power = min(2, sum(size == positions for size in tensor.shape))
    return int(tensor.untyped_storage().nbytes() * length**power // positions**power)
