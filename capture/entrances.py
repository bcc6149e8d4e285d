"""What enters each site, found by running a model's layers without weights: which module made it, what shares it.

On the meta device a forward costs milliseconds and computes nothing, but tensors keep their identity. Token mixers and
MLPs are stubbed (routing depends on data): between them lie the norms and additions that decide what a site receives.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from capture.loss import decoder_of
from capture.sites import MLPS, TOKEN_MIXERS, Site, decoder_layers
from schemas.errors import CaptureError, InputError
from schemas.layout import RESIDUAL

__all__ = ["Entrance", "trace_entrances"]

SEQUENCES, POSITIONS = 5, 3
"""Of the traced forward. Five, so that a tensor does not pass for a pair where a layer unpacks what a mixer returns."""

RETURNS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda hidden: (hidden, None),
    lambda hidden: hidden,
    lambda hidden: (hidden, None, None),
)
"""What a token mixer or an MLP returns beside its hidden states; which one a layer takes is found by trying."""

Identity = tuple[int, int, torch.Size, int]
"""Of a tensor's values: its storage, the offset and extent in it, and how often it was changed in place."""


@dataclass(frozen=True)
class Entrance:
    """What enters one site in one layer; ``made_by`` is the module whose output it is, None where none's."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    identity: Identity
    made_by: str | None


class _Unanswered(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets a model ask for values that are not there (is every token padding?): the answer is zero, that is: no."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype).item()
        return func(*args, **(kwargs or {}))


def trace_entrances(model: Any, sites: Sequence[Site]) -> dict[tuple[str, int], Entrance]:
    """(site, layer) -> what enters there, for a ``model`` on the meta device; also for RESIDUAL, which is what enters
    the layer itself.

    A copy is run, in evaluation mode: a forward may leave something in a model (RWKV's notes that it has rescaled its
    weights). Raises CaptureError where the model, or one of its sites, does not run without weights, InputError where
    it runs a layer again in one forward (HRM): a store holds what enters it once.
    """
    model = copy.deepcopy(model).eval()
    path, layers = decoder_layers(model)
    found: dict[tuple[str, int], Entrance] = {}
    made: dict[Identity, str] = {}
    latest: dict[str, Identity] = {}
    alive: list[torch.Tensor] = []  # so that no other tensor takes the place of one that was seen

    def leaf_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                alive.append(output)
                latest[name] = _identity(output)
                made.setdefault(latest[name], name)  # dropout hands on what it is given: the first one made it

        return hook

    def site_hook(site: str, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = kwargs.get("hidden_states", args[0] if args else None)
            if isinstance(hidden, torch.Tensor):
                alive.append(hidden)
                identity = _identity(hidden)
                name = made.get(identity)
                by = name if name is not None and latest[name] == identity else None
                found[site, layer] = Entrance(tuple(hidden.shape), hidden.dtype, identity, by)

        return hook

    for name, module in model.named_modules():
        if not any(module.children()):
            module.register_forward_hook(leaf_hook(name))
    entered = {site.name: site.modules for site in sites}
    entered[RESIDUAL] = tuple(f"{path}.{layer}" for layer in range(len(layers)))
    for site, modules in entered.items():
        for layer, name in enumerate(modules):
            model.get_submodule(name).register_forward_pre_hook(site_hook(site, layer), with_kwargs=True)
    for layer, each in enumerate(layers):
        _stub_blocks(each, f"{type(model).__name__} runs {path}.{layer}")
    ids = torch.zeros(SEQUENCES, POSITIONS, dtype=torch.long, device="meta")
    try:
        with torch.no_grad(), _Unanswered():  # type: ignore[no-untyped-call]
            decoder_of(model)(input_ids=ids, use_cache=False)
    except InputError:
        raise
    except Exception as error:  # whatever a model does with tensors that hold nothing
        raise CaptureError(f"{type(model).__name__} does not run without weights: {error}") from error
    for site, modules in entered.items():
        for layer, name in enumerate(modules):
            if (site, layer) not in found:
                raise CaptureError(f"{site} of layer {layer} ({name}) does not run without weights")
    return found


def _identity(tensor: torch.Tensor) -> Identity:
    """Equal for a tensor and a view of all of it, as where sequences and positions become one dimension."""
    extent = torch.Size((tensor.numel(), tensor.shape[-1] if tensor.ndim else 1))
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset()), extent, tensor._version


def _stub_blocks(layer: nn.Module, told: str) -> None:
    """Have ``layer`` run, once, with its token mixers and MLPs replaced by what it takes from them.

    ``told`` begins what is said where it runs again.
    """
    forward = layer.forward
    blocks = [
        child
        for name, child in layer.named_children()
        if name in (*TOKEN_MIXERS, *MLPS) and not isinstance(child, nn.Linear | nn.ModuleList)
    ]

    ran = False

    def tried(*args: Any, **kwargs: Any) -> Any:
        nonlocal ran
        if ran:
            raise InputError(
                f"{told} more than once in a forward, and a store holds what enters a layer once: this model cannot be "
                "captured"
            )
        ran = True
        failure: Exception | None = None
        for returns in itertools.product(RETURNS, repeat=len(blocks)):
            for block, returned in zip(blocks, returns, strict=True):
                block.forward = _stub(returned)
            try:
                result = forward(*args, **kwargs)
                if isinstance(result[0] if isinstance(result, tuple | list) else result, torch.Tensor):
                    return result
                raise TypeError(f"{type(layer).__name__} hands on what its blocks return")  # as it is (Bloom, MPT)
            except Exception as error:  # a tuple where the layer adds a tensor, or the other way round
                failure = failure or error
        raise failure or AssertionError("unreachable")

    layer.forward = tried


def _stub(returned: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    def stub(*args: Any, **kwargs: Any) -> Any:
        return returned(torch.empty_like(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]))

    return stub
