"""A checkpoint folder as the Hub has it: configuration, safetensors under their original names, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .architectures import ARCHITECTURES, BEGIN_OF_TEXT_ID, END_OF_TEXT_ID, VOCABULARY_SIZE, Architecture
from .original import original_state
from .planting import Edit
from .tokenizer import write_tokenizer
from .weights import State, random_state

SHARDS = 3


def write_checkpoint(
    folder: Path,
    architecture_name: str,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    sharded: bool = False,
    edit: Edit | None = None,
    adds_bos: bool = False,
) -> Path:
    """The folder, now holding config.json, model.safetensors (or three shards and their index) and a tokenizer.

    `edit` changes the float32 state in place, under the names the model has *in memory* (experts fused, no renames),
    before it is cast, renamed, taken apart or packed into MXFP4.
    """
    architecture = ARCHITECTURES[architecture_name]
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(architecture, dtype)
    state = random_state(architecture, config, seed)
    if edit is not None:
        edit(state)
    stored = original_state(architecture, state, getattr(torch, dtype))
    if architecture.mxfp4:
        config.quantization_config = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        }
    config.save_pretrained(folder)
    if sharded:
        _write_shards(folder, stored)
    else:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, VOCABULARY_SIZE, adds_bos=adds_bos)
    return folder


def _config(architecture: Architecture, dtype: str) -> PretrainedConfig:
    special_tokens = {
        "bos_token_id": BEGIN_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": END_OF_TEXT_ID,
    }
    config = AutoConfig.for_model(architecture.model_type, **architecture.config, **special_tokens)
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[architecture.model_type]]
    config.dtype = dtype
    return config


def _write_shards(folder: Path, state: State) -> None:
    """Cuts by count, so that shards end in the middle of a layer, and between the experts of one."""
    names = sorted(state)
    per_shard = -(-len(names) // SHARDS)
    weight_map: dict[str, str] = {}
    for number, start in enumerate(range(0, len(names), per_shard), start=1):
        file = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        shard = {name: state[name] for name in names[start : start + per_shard]}
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total_size = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
