"""What a plain forward hands to each token mixer and MLP: the oracle for captured tensors."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .architectures import ARCHITECTURES, Site
from .planting import Cell


def site_inputs(model: nn.Module, name: str, token_ids: Tensor) -> dict[Cell, Tensor]:
    """The tensor object that enters each (site, layer) cell, as the module gets it: not cloned, not reshaped.

    `token_ids` is `(sequences, positions)`. Fails where a cell fires other than once.
    """
    architecture = ARCHITECTURES[name]
    seen: dict[Cell, Tensor] = {}

    def record(site: Site, layer: int, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            if (site, layer) in seen:
                raise RuntimeError(f"{name}: {site} of layer {layer} fired twice")
            seen[site, layer] = tensor

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    layers = model.get_submodule(architecture.layers)
    with ExitStack() as stack, torch.no_grad():
        for layer, block in enumerate(layers.children()):
            mixer = next(each for each in architecture.token_mixers if hasattr(block, each))
            stack.enter_context(record("ln_attn", layer, getattr(block, mixer)))
            if architecture.mlp is not None:
                stack.enter_context(record("ln_mlp", layer, getattr(block, architecture.mlp)))
        model(token_ids, use_cache=False)
    return seen
