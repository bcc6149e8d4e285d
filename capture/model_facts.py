"""What a model is, computed from its configuration and the shapes of its parameters, never typed by hand.

The model is built on torch's meta device: every module and shape, no memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from capture.routing_rules import routing_in_words
from capture.sites import decoder_layers
from capture.weights.quantisation import READABLE
from schemas.errors import InputError

__all__ = ["ModelFacts", "Skeleton", "build_skeleton", "expert_parameters"]

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
)

PACKED_BYTES: Mapping[str, float] = MappingProxyType({"mxfp4": 17 / 32, "fp8": 1})
"""Of a value in a quantised checkpoint: MXFP4 has four bits, and eight more for each 32 values."""
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_topk", "moe_k")
"""What configurations call the routed experts of a layer, and those of them that a token uses."""


@dataclass(frozen=True)
class ModelFacts:
    """Counts and names of one model; parameters are counted once each, tied ones too."""

    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    vocabulary_size: int
    max_positions: int | None
    total_parameters: int
    active_parameters: int
    experts: int | None
    shared_experts: int | None
    top_k: int | None
    routing: str | None
    quantisation: str | None
    native_dtype: str
    parameter_bytes: int
    largest_layer_bytes: int
    outside_layers_bytes: int
    attention_implementation: str | None
    experts_implementation: str | None
    attention_heads: int
    checkpoint_bytes: int
    """Of the checkpoint's tensors that the model uses, in their own dtype."""
    converted_bytes: int
    """Of those that are no parameters as they are: experts kept apart or packed, and all where the dtype is another."""
    widest_features: int
    """Values of a token that an attention or MLP block holds at once, beside its hidden states; no experts."""
    expert_features: int
    """The same of one expert."""


@dataclass(frozen=True)
class Skeleton:
    """A model without weights: its configuration, its modules on the meta device, and its facts."""

    config: Any
    model: Any
    facts: ModelFacts
    dtype: torch.dtype


def _first(config: Any, *names: str) -> Any:
    """The first of ``names`` that ``config`` has, None where it has none of them."""
    return next((value for name in names if (value := _value(config, name)) is not None), None)


def _value(config: Any, name: str) -> Any:
    """``config.name``, the largest where it is of each layer (dots3_note); None where there is none."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers', of an entry that layers have and their model has not
        layers = (config.per_layer_config[index] for index in range(config.num_hidden_layers))
        return max((value for layer in layers if (value := getattr(layer, name, None)) is not None), default=None)


def native_dtype(config: Any, quantisation: str | None) -> str:
    """Name of the dtype that the checkpoint declares.

    Where it declares none: bfloat16 for quantised ones, which are dequantised to that and whose other tensors are that
    (GPT-OSS's checkpoints say nothing); else float32, what older checkpoints without the entry hold.
    """
    declared = _first(config, "dtype", "torch_dtype") or _first(config.get_text_config(), "dtype")
    if declared is None:
        return "float32" if quantisation is None else "bfloat16"
    return str(declared).removeprefix("torch.")


def build_skeleton(folder: Path, dtype: str) -> Skeleton:
    """The model in ``folder`` on the meta device, with ``dtype`` ("auto": the checkpoint's own).

    Raises InputError for a configuration that transformers does not know, an encoder, or a quantisation that cannot
    be dequantised on load.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a configuration's own checks raise what they like
        raise InputError(f"{folder}: config.json is not one transformers can read: {_sentence(error)}") from None
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None and not isinstance(quantisation, dict):
        quantisation = quantisation.to_dict()
    method = (quantisation or {}).get("quant_method")
    if method is not None and method not in READABLE:
        raise InputError(
            f"{folder} is quantised with {method}; readable here: unquantised and {', '.join(READABLE)}. "
            "Use the checkpoint it was made from"
        )
    native = native_dtype(config, method)
    chosen = native if dtype == "auto" else dtype
    if chosen not in DTYPES:
        raise InputError(f"the checkpoint's dtype is {chosen}; choose --dtype {', '.join(DTYPES)}")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[chosen])
    except Exception as error:  # sizes that contradict each other fail wherever they meet
        kind = getattr(config, "model_type", "this model")
        unknown = isinstance(error, ValueError) and "Unrecognized configuration class" in str(error)
        what = f"{kind} is no causal language model" if unknown else f"its config.json makes no {kind} model"
        raise InputError(f"{folder}: {what}: {_sentence(error)}") from None
    if _is_encoder(model, config):
        raise InputError(
            f"{folder}: {config.model_type} is no causal language model: it is an encoder, whose tokens see those that "
            "follow. Use a decoder"
        )
    return Skeleton(config, model, _facts(model, config, native, method), DTYPES[chosen])


def _is_encoder(model: Any, config: Any) -> bool:
    """True for BERT and its like, which transformers turns into a causal class on request, without a causal mask.

    Their configurations have ``is_decoder`` false, no attention in them is causal, and their layers have the switch,
    too, or come with a decoder that has. GPT-NeoX and its Japanese kin have the entry alone, and are always causal.
    """
    return (
        getattr(config, "is_decoder", None) is False
        and not any(getattr(module, "is_causal", False) for module in model.modules())
        and (
            getattr(config, "is_encoder_decoder", False)
            or any(hasattr(module, "is_decoder") for module in model.modules())
        )
    )


def _sentence(error: BaseException) -> str:
    """Its first line, and the next where that only introduces it."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else repr(error)
    return text[:300]


def expert_parameters(model: Any, experts: int) -> int:
    """How many parameters belong to routed experts: those of a module path with ``experts`` in it.

    Fused experts are one tensor with a leading dimension of ``experts``; separate ones a list of that many modules.
    """
    total = 0
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if "experts" not in parts:
            continue
        inside = parts[parts.index("experts") + 1 :]
        if inside[0].isdigit() or (parameter.ndim and parameter.shape[0] == experts):
            total += parameter.numel()
    return total


def _facts(model: Any, config: Any, native: str, quantisation: str | None) -> ModelFacts:
    text = config.get_text_config()
    experts = _first(text, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    top_k = _first(
        text, "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_topk", "moe_k"
    )
    total = sum(parameter.numel() for parameter in model.parameters())
    routed = expert_parameters(model, experts) if experts else 0
    active = total
    if routed and top_k is None:
        raise InputError(
            f"{config.model_type} with {experts} experts: its config.json does not say how many of them a token uses "
            "(num_experts_per_tok)"
        )
    if routed:
        active = total - routed + routed * top_k // experts
    else:
        experts = top_k = None
    embedding = model.get_input_embeddings().weight
    output = model.get_output_embeddings()
    if output is not None and output.weight is not embedding and not getattr(text, "tie_word_embeddings", False):
        active -= embedding.numel()
    parameter_bytes = _parameter_bytes(model)
    layers = list(decoder_layers(model)[1])
    layer_bytes = [_parameter_bytes(layer) for layer in layers]
    hidden = _first(text, "hidden_size")
    if hidden is None:
        raise InputError(f"{config.model_type}: its config.json gives no hidden_size: hidden states of what width?")
    checkpoint_bytes, converted_bytes = _stored_bytes(model, DTYPES.get(native, model.dtype), quantisation, experts)
    return ModelFacts(
        architecture=type(model).__name__,
        model_type=str(config.model_type),
        layers=len(layers),  # LongCat configures twice as many: two attentions in each
        hidden_size=hidden,
        vocabulary_size=int(text.vocab_size),
        max_positions=_max_positions(text),
        total_parameters=total,
        active_parameters=active,
        experts=experts,
        shared_experts=_shared_experts(model, text) if experts else None,
        top_k=top_k,
        routing=routing_in_words(text) if experts else None,
        quantisation=quantisation,
        native_dtype=native,
        parameter_bytes=parameter_bytes,
        largest_layer_bytes=max(layer_bytes),
        outside_layers_bytes=parameter_bytes - sum(layer_bytes),
        attention_implementation=getattr(text, "_attn_implementation", None),
        experts_implementation=getattr(text, "_experts_implementation", None) if experts else None,
        attention_heads=int(_first(text, "num_attention_heads", "n_head") or 0),
        checkpoint_bytes=checkpoint_bytes,
        converted_bytes=converted_bytes,
        widest_features=max(_width(child, hidden) for layer in layers for child in layer.children()),
        expert_features=_expert_width(layers, experts, hidden) if experts else 0,
    )


def _parameter_bytes(module: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _stored_bytes(model: Any, native: torch.dtype, quantisation: str | None, experts: int | None) -> tuple[int, int]:
    """(bytes of the checkpoint, bytes of its tensors that are not parameters as they are), from shapes alone."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    made = [
        pattern
        for entry in get_model_conversion_mapping(model, None, None)
        if isinstance(entry, WeightConverter)
        for pattern in entry.target_patterns
    ]
    stored = converted = 0.0
    for name, parameter in model.named_parameters():
        expert = parameter.ndim == 3 and parameter.shape[0] == experts
        packed = (quantisation == "mxfp4" and expert) or (quantisation == "fp8" and parameter.ndim > 1)
        size = parameter.numel() * (PACKED_BYTES[quantisation or ""] if packed else native.itemsize)
        stored += size
        if packed or parameter.dtype != native or any(re.search(pattern, name) for pattern in made):
            converted += size
    return int(stored), int(converted)


def _width(block: Any, hidden: int) -> int:
    """What the matrices of an attention or MLP block give or take beside hidden states: gate, up, down are three."""
    matrices = [p for name, p in block.named_parameters() if p.ndim == 2 and "experts" not in name.split(".")]
    return int(sum(matrix.numel() for matrix in matrices)) // hidden


def _expert_width(layers: Sequence[Any], experts: int, hidden: int) -> int:
    return max(expert_parameters(layer, experts) for layer in layers) // (experts * hidden)


def _max_positions(text: Any) -> int | None:
    """Positions that the model was made for; None where its position encoding has no end (ALiBi, recurrence)."""
    value = _first(text, "max_position_embeddings", "n_positions")
    return int(value) if value else None


def _shared_experts(model: Any, text: Any) -> int:
    """Experts that every token uses beside its routed ones: as configured, else 1 where a module says so."""
    configured = _first(text, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    if configured is not None:
        return int(configured)
    return int(any(name.rsplit(".", 1)[-1] in ("shared_expert", "shared_experts") for name, _ in model.named_modules()))
