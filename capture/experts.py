"""Where a model routes tokens to experts, and what the weights of the chosen ones come to: found before it runs.

In transformers the experts of a layer are one module that is called with hidden states, expert ids and weights, and
that multiplies each expert's output by its weight. That call is what a capture observes: not a router's result, which a
block may go on to change, but what multiplies the outputs. Here the call is found and tried on the meta device.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from capture.sites import decoder_layers

__all__ = ["SEEN_IMPLEMENTATIONS", "Routing", "find_routing", "routed"]

SEEN_IMPLEMENTATIONS = ("batched_mm", "grouped_mm")
"""Ways to compute experts that pass each expert's output through ``post_expert_norm`` where a module has one
(transformers.integrations.moe): there it is seen."""

PROBE_TOKENS = 64
SUM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Routing:
    """How the routing of a mixture of experts is observed.

    ``modules`` has the experts' module of each layer, None where a layer has none; ``weights_sum`` is what the weights
    of one token sum to, None where that differs from token to token. ``absent`` says why nothing is observed, and
    ``peak_absent`` why experts' outputs are not; None where they are.
    """

    modules: tuple[str | None, ...] = ()
    experts: int = 0
    top_k: int = 0
    weights_sum: float | None = None
    absent: str | None = None
    peak_absent: str | None = None

    @property
    def layers(self) -> int:
        """How many layers have experts."""
        return sum(path is not None for path in self.modules)


@dataclass(frozen=True)
class _Call:
    """One call of a layer's experts: with how many ranks, and the call of a module whose result the weights are."""

    top_k: int
    router: nn.Module | None = None
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    weights_index: int = 0


def find_routing(model: Any) -> Routing:
    """The routing of ``model``, a mixture of experts on the meta device; ``absent`` where it cannot be observed."""
    path, layers = decoder_layers(model)
    found = [[name for name, module in layer.named_modules() if _is_experts(module)] for layer in layers]
    name = type(model).__name__
    if not any(found):
        return Routing(absent=f"{name} computes its experts in a way of its own, not in transformers' common one")
    if max(map(len, found)) > 1:
        return Routing(absent=f"layers of {name} have several groups of experts")
    modules = tuple(f"{path}.{index}.{names[0]}" if names else None for index, names in enumerate(found))
    calls: list[_Call] = []
    for module in filter(None, modules):
        call = _tried(model, module)
        if isinstance(call, str):
            return Routing(absent=f"{module} {call}")
        calls.append(call)
    experts = [model.get_submodule(module) for module in modules if module]
    if len({(module.num_experts, call.top_k) for module, call in zip(experts, calls, strict=True)}) > 1:
        return Routing(absent=f"layers of {name} differ in experts or in how many a token uses")
    implementation = experts[0].config._experts_implementation
    unseen = None if implementation in SEEN_IMPLEMENTATIONS else f"the experts are computed by {implementation}"
    count = int(experts[0].num_experts)
    return Routing(modules, count, calls[0].top_k, _weights_sum(calls[0]), peak_absent=unseen)


def routed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | str:
    """(hidden states, expert ids, weights) of a call of experts, (token, feature) and twice (token, rank); what is
    wrong with the arguments where they are not that."""
    given = (*args, *kwargs.values())[:3]
    if len(given) != 3 or not all(isinstance(value, torch.Tensor) for value in given):
        return f"is called with {', '.join(type(value).__name__ for value in given)}"
    hidden, ids, weights = given
    of_kinds = not ids.dtype.is_floating_point and weights.dtype.is_floating_point
    of_shapes = hidden.ndim == 2 and ids.ndim == 2 and ids.shape == weights.shape and len(ids) == len(hidden)
    if not of_kinds or not of_shapes:
        told = ", ".join(f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" for value in given)
        return f"is called with {told}, not with hidden states, ids and weights of each token"
    return hidden, ids, weights


def _is_experts(module: nn.Module) -> bool:
    """True for what transformers' ``use_experts_implementation`` has decorated."""
    return hasattr(module, "has_post_expert_norm") and hasattr(module, "num_experts")


class _SeenError(Exception):
    """Ends a block's forward once its experts have been called."""


def _tried(model: Any, path: str) -> _Call | str:
    """The call that the block around the experts at ``path`` makes for a few tokens; what went wrong where none."""
    block = model.get_submodule(path.rsplit(".", 1)[0])
    seen: list[Any] = []
    returned: list[tuple[nn.Module, Any, Any]] = []

    def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(routed(args, kwargs))
        raise _SeenError

    handles = [model.get_submodule(path).register_forward_pre_hook(called, with_kwargs=True)]
    for module in block.modules():
        handles.append(
            module.register_forward_hook(
                lambda module, args, kwargs, result: returned.append((module, (args, kwargs), result)), with_kwargs=True
            )
        )
    features = model.config.get_text_config().hidden_size
    try:
        with torch.no_grad():
            block(torch.empty(1, PROBE_TOKENS, features, dtype=model.dtype, device="meta"))
    except _SeenError:
        pass
    except Exception as error:  # a block that needs more than hidden states fails wherever it misses it
        return f"cannot be called apart from its layer: {str(error).strip().splitlines()[0][:120]}"
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return "is not called by the module that holds it"
    if isinstance(seen[0], str):
        return seen[0]
    hidden, _, weights = seen[0]
    if len(hidden) != PROBE_TOKENS:
        return f"is called with {len(hidden)} tokens where there are {PROBE_TOKENS}"
    for module, arguments, result in returned:
        index = next((i for i, value in enumerate(result) if value is weights), None) if _is_tuple(result) else None
        if index is not None:
            return _Call(weights.shape[-1], module, arguments, index)
    return _Call(weights.shape[-1])


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _weights_sum(call: _Call) -> float | None:
    """What the weights of a token sum to: a copy of the router, with random numbers for its own, tells."""
    if call.router is None:
        return None
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        deviation = value.shape[-1] ** -0.5 if value.ndim > 1 else 1.0  # logits of about 1: nothing saturates
        return torch.empty(value.shape, device="cpu").normal_(0, deviation, generator=generator)

    router = copy.deepcopy(call.router)
    for module in router.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(drawn(value))
        for name, buffer in module._buffers.items():
            module._buffers[name] = drawn(buffer)
    args, kwargs = pytree.tree_map(drawn, call.arguments)
    try:
        with torch.no_grad():
            sums = router(*args, **kwargs)[call.weights_index].double().sum(-1)
    except Exception:  # a router that needs what no draw can give: then it is not known
        return None
    mean, spread = float(sums.mean()), float(sums.max() - sums.min())
    return float(f"{mean:.4g}") if spread <= SUM_TOLERANCE * mean else None
