"""From the names a model has in memory to the names its published checkpoint has on disk."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from .architectures import LAYERS, MAXIMUM_POSITIONS, Architecture
from .mxfp4 import encode_mxfp4
from .weights import State

GLM4_MOE_EXTRA_LAYER = 46
"""GLM-4.5-Air has layers 0 to 45 and a multi-token-prediction layer 46, which the model's class ignores by that
number: here too, although the tiny model has fewer layers."""


def original_state(architecture: Architecture, state: State, dtype: torch.dtype) -> State:
    """The state under the checkpoint's own names, cast to `dtype`, with the extra keys a real checkpoint has."""
    if architecture.experts is not None:
        state = _one_by_one(state, architecture.experts)
    named = {_renamed(name, architecture.renames): tensor for name, tensor in state.items()}
    if architecture.extra_keys is not None:
        named |= _EXTRA_KEYS[architecture.extra_keys](named)
    # The router's correction bias is float32 in GLM-4.5's bfloat16 files.
    stored = {name: tensor if "e_score_correction" in name else tensor.to(dtype) for name, tensor in named.items()}
    if architecture.mxfp4:
        stored = _packed(stored)
    return {name: tensor.contiguous().clone() for name, tensor in stored.items()}


def _renamed(name: str, renames: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _one_by_one(state: State, names: tuple[str, str, str]) -> State:
    """Splits `experts.gate_up_proj` `(experts, 2 * inner, features)` and `experts.down_proj` into single matrices."""
    gate_name, up_name, down_name = names
    split: State = {}
    for name, tensor in state.items():
        prefix, _, kind = name.rpartition(".")
        if not prefix.endswith(".experts"):
            split[name] = tensor
        elif kind == "gate_up_proj":
            for expert, (gate, up) in enumerate(zip(*tensor.chunk(2, dim=1), strict=True)):
                split[f"{prefix}.{expert}.{gate_name}.weight"] = gate
                split[f"{prefix}.{expert}.{up_name}.weight"] = up
        else:
            for expert, down in enumerate(tensor):
                split[f"{prefix}.{expert}.{down_name}.weight"] = down
    return split


def _packed(state: State) -> State:
    packed: State = {}
    for name, tensor in state.items():
        if re.search(r"experts\.(gate_up_proj|down_proj)$", name):
            packed[f"{name}_blocks"], packed[f"{name}_scales"] = encode_mxfp4(tensor)
        else:
            packed[name] = tensor
    return packed


def _gpt2_buffers(_: State) -> State:
    causal = torch.ones(MAXIMUM_POSITIONS, MAXIMUM_POSITIONS).tril()[None, None]
    return {f"h.{layer}.attn.bias": causal for layer in range(LAYERS)}


def _gpt_neox_buffers(_: State) -> State:
    causal = torch.ones(MAXIMUM_POSITIONS, MAXIMUM_POSITIONS).tril()[None, None]
    buffers: State = {}
    for layer in range(LAYERS):
        prefix = f"gpt_neox.layers.{layer}.attention"
        buffers[f"{prefix}.bias"] = causal
        buffers[f"{prefix}.masked_bias"] = torch.tensor(-1e9)
        buffers[f"{prefix}.rotary_emb.inv_freq"] = torch.ones(1)
    return buffers


def _last_layer(state: State, prefix: str) -> State:
    last = f"model.layers.{LAYERS - 1}."
    return {prefix + name.removeprefix(last): tensor for name, tensor in state.items() if name.startswith(last)}


def _qwen3_next_mtp(state: State) -> State:
    norm = state["model.norm.weight"]
    return {
        **_last_layer(state, "mtp.layers.0."),
        "mtp.fc.weight": torch.zeros(norm.shape[0], 2 * norm.shape[0]),
        "mtp.norm.weight": norm,
        "mtp.pre_fc_norm_embedding.weight": norm,
        "mtp.pre_fc_norm_hidden.weight": norm,
    }


def _glm4_moe_mtp(state: State) -> State:
    norm = state["model.norm.weight"]
    prefix = f"model.layers.{GLM4_MOE_EXTRA_LAYER}."
    return {
        **_last_layer(state, prefix),
        f"{prefix}eh_proj.weight": torch.zeros(norm.shape[0], 2 * norm.shape[0]),
        f"{prefix}enorm.weight": norm,
        f"{prefix}hnorm.weight": norm,
        f"{prefix}embed_tokens.weight": state["model.embed_tokens.weight"],
        f"{prefix}shared_head.norm.weight": norm,
        f"{prefix}shared_head.head.weight": state["lm_head.weight"],
    }


_EXTRA_KEYS: dict[str, Callable[[State], State]] = {
    "gpt2_buffers": _gpt2_buffers,
    "gpt_neox_buffers": _gpt_neox_buffers,
    "qwen3_next_mtp": _qwen3_next_mtp,
    "glm4_moe_mtp": _glm4_moe_mtp,
}
