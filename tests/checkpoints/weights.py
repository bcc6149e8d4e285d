"""Seeded random weights under which activations stay small: nothing reaches magnitude 6 unless it is planted."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from .architectures import Architecture

State = dict[str, Tensor]
Draw = Callable[[torch.Size, torch.Generator], Tensor]


def _normal(deviation: float) -> Draw:
    return lambda shape, generator: torch.randn(shape, generator=generator) * deviation


def _uniform(low: float, high: float) -> Draw:
    return lambda shape, generator: torch.rand(shape, generator=generator) * (high - low) + low


def _bounded_from_zero(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Magnitudes in [0.5, 1.5) with random signs, so that a raised gain lifts a feature at every position."""
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return signs * (torch.rand(shape, generator=generator) + 0.5)


# A norm output's magnitude is at most sqrt(features) times the gain: sqrt(32) * 1.05 = 5.94. At 64 features (GPT-OSS)
# the embeddings' bound and small residual updates keep it far below.
_GAIN = _uniform(0.8, 1.05)
_ONE_PLUS_GAIN = _uniform(-0.2, 0.05)
_CARRIED_GAIN = _uniform(0.1, 0.2)

WRITERS = r"\.(o_proj|out_proj|down_proj|dense|c_proj|fc2|dense_4h_to_h)(\.weight)?$"
"""The weights whose products are added to the residual."""

# The first pattern that is found in the name decides.
_DRAWS: tuple[tuple[str, Draw], ...] = (
    (r"(wpe|embed_positions)\.weight$", _normal(0.1)),
    (r"(wte|word_embeddings|embeddings|embed_\w+)\.weight$", _bounded_from_zero),
    (r"project_in\.weight$", _normal(0.25)),
    (r"A_log$", _uniform(0.0, 2.5)),
    (r"(dt_bias|dt_proj\.bias)$", _uniform(-4.0, -1.0)),
    (r"(\.D|correct_output_scale|layer_scalar)$", _GAIN),
    (r"sinks$", _normal(0.5)),
    (r"bias$", _uniform(-0.03, 0.03)),
    (r"conv1d\.weight$", _normal(0.4)),
    (r"(mlp\.gate|router|shared_expert_gate)\.weight$", _normal(0.5)),
    (WRITERS, _normal(0.05)),
)


def _draw(architecture: Architecture, name: str, dimensions: int) -> Draw:
    if dimensions == 1 and name.endswith(".weight"):
        if architecture.carried and ".post_" in name:
            return _CARRIED_GAIN
        # Qwen3-Next's gated norm inside its linear attention is the one norm there that multiplies by w.
        return _ONE_PLUS_GAIN if architecture.one_plus_gain and "linear_attn.norm" not in name else _GAIN
    return next((draw for pattern, draw in _DRAWS if re.search(pattern, name)), _normal(0.15))


def random_state(architecture: Architecture, config: PretrainedConfig, seed: int) -> State:
    """The model's state, in the names it has in memory, float32; each tensor depends on the seed and its name only."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    state: State = {}
    for name, tensor in model.state_dict().items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        state[name] = _draw(architecture, name, tensor.dim())(tensor.shape, generator)
    return state
