"""What a model gives to each of its decoder layers, recorded and replayed: how layers are run apart from their model.

In an *identity pass* every layer hands on the hidden states it receives, and its arguments are recorded. They differ by
layer type (masks and rotary embeddings of sliding and full attention), so one layer's are never replayed for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from schemas.errors import CaptureError

__all__ = ["LayerCall", "carries_state", "record_calls", "run_with_last_hidden", "share_equal_tensors"]


@dataclass
class LayerCall:
    """The arguments of one call of a decoder layer, and whether the layer returns a tuple."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returns_tuple: bool = False

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states among the arguments: by keyword, else the first positional."""
        hidden: torch.Tensor = self.kwargs["hidden_states"] if "hidden_states" in self.kwargs else self.args[0]
        return hidden

    def run(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """The layer's hidden states for these arguments, with ``hidden`` in the place of those recorded."""
        if "hidden_states" in self.kwargs:
            returned = layer(*self.args, **{**self.kwargs, "hidden_states": hidden})
        else:
            returned = layer(hidden, *self.args[1:], **self.kwargs)
        result: torch.Tensor = returned[0] if isinstance(returned, tuple | list) else returned
        return result


def record_calls(
    decoder: nn.Module,
    layers: Sequence[nn.Module],
    token_id: torch.Tensor,
    stand_ins: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> list[LayerCall]:
    """One LayerCall per layer, as ``decoder`` makes them for ``token_id`` (batch, position); no layer computes.

    ``stand_ins`` take the places of the decoder's own parameters and buffers meanwhile. Whether the decoder takes
    tensors or tuples from its layers is found by trying both. Raises CaptureError where it does more between two layers
    than hand the hidden states on: then the layers cannot run apart.
    """
    failures = 0
    for returns_tuple in (False, True):
        calls: list[LayerCall] = []

        def stub(*args: Any, **kwargs: Any) -> Any:
            calls.append(LayerCall(args, kwargs, returns_tuple))  # noqa: B023
            hidden = calls[-1].hidden  # noqa: B023
            return (hidden,) if returns_tuple else hidden  # noqa: B023

        try:
            with _stubbed(layers, [stub] * len(layers)):
                torch.func.functional_call(decoder, dict(stand_ins), (), {"input_ids": token_id, "use_cache": False})
        except (IndexError, TypeError, ValueError, RuntimeError, AttributeError):
            failures += len(calls) == 1  # a tensor where the decoder unpacks a tuple, or too short a tuple
            continue
        if len(calls) == len(layers) and all(call.hidden is calls[0].hidden for call in calls):
            return calls
    does = "takes more from its layers than" if failures == 2 else "does more between its layers than hand on"
    raise CaptureError(f"{type(decoder).__name__} {does} hidden states")


def run_with_last_hidden(decoder: Any, layers: Sequence[nn.Module], token_id: torch.Tensor, last: LayerCall) -> Any:
    """What ``decoder`` returns when its last layer gives ``last.hidden``: the model's own end, final norm included."""
    returned = (last.hidden,) if last.returns_tuple else last.hidden
    with _stubbed(layers, [lambda *args, **kwargs: returned] * len(layers)):
        return decoder(input_ids=token_id, use_cache=False)


@contextmanager
def _stubbed(layers: Sequence[nn.Module], stubs: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """While entered, the layers' ``forward`` are ``stubs``: instance attributes, which hide the class's method."""
    for layer, stub in zip(layers, stubs, strict=True):
        layer.forward = stub
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def carries_state(calls: Sequence[LayerCall]) -> str | None:
    """The name of an argument in which layers leave something for later ones, None where there is none.

    That is a mutable object, no tensor, that two layers are given: a cache, a dictionary of shared keys and values.
    """
    seen: dict[int, str] = {}
    for call in calls:
        here: dict[int, str] = {}
        for name, value in [*((f"argument {i}", a) for i, a in enumerate(call.args)), *call.kwargs.items()]:
            if isinstance(value, dict | list | set) or (hasattr(value, "__dict__") and not _is_plain(value)):
                here[id(value)] = name
        shared = next((here[key] for key in here if key in seen), None)
        if shared is not None:
            return shared
        seen |= here
    return None


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor | torch.dtype | torch.device | type) or callable(value)


def share_equal_tensors(first: LayerCall, other: LayerCall) -> None:
    """Let ``other`` hold ``first``'s tensors where theirs are equal: masks and rotary embeddings of another batch."""

    def shared(value: Any, kept: Any) -> Any:
        if isinstance(value, torch.Tensor) and isinstance(kept, torch.Tensor) and value is not other.hidden:
            same = value.shape == kept.shape and value.dtype == kept.dtype and torch.equal(value, kept)
            return kept if same else value
        return value

    mine, shape = pytree.tree_flatten((other.args, other.kwargs))
    theirs, their_shape = pytree.tree_flatten((first.args, first.kwargs))
    if shape == their_shape:
        pairs = zip(mine, theirs, strict=True)
        other.args, other.kwargs = pytree.tree_unflatten([shared(*pair) for pair in pairs], shape)
