"""Tiny configurations of real architectures, with where each keeps its token mixer, MLP and norms: data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Site = Literal["ln_attn", "ln_mlp"]
SITES: tuple[Site, ...] = ("ln_attn", "ln_mlp")

LAYERS = 4
VOCABULARY_SIZE = 320
MAXIMUM_POSITIONS = 256
END_OF_TEXT_ID = 0
BEGIN_OF_TEXT_ID = 1


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture: its configuration, its modules, its norms, and its checkpoint's own names.

    Module and parameter names are relative to a decoder layer, except `layers` and `embedding`, which are relative to
    the causal language model. They are typed here by hand, so that a rule that finds them can be checked against them.
    """

    model_type: str
    config: Mapping[str, Any]
    layers: str = "model.layers"
    """The decoder layers' ModuleList."""
    token_mixers: tuple[str, ...] = ("self_attn",)
    """Children that mix tokens: a layer has one of them; two only in Falcon-H1, where both run side by side."""
    mlp: str | None = "mlp"
    """The child that is the MLP or mixture of experts (OPT has none: the first of its two linear layers)."""
    norm_attn: str = "input_layernorm"
    """The norm whose output is the token mixer's input."""
    norm_mlp: str | None = "post_attention_layernorm"
    """The norm whose output is the MLP's input; the same as `norm_attn` where one norm feeds both in parallel."""
    one_plus_gain: bool = False
    """The norms multiply by 1 + w instead of w."""
    post_norm: bool = False
    """`norm_attn` sits at the end of the layer *before* (before layer 0: the embedding)."""
    carried: bool = False
    """The raw residual enters the blocks: what a norm adds stays in every later cell."""
    embedding: str = "model.embed_tokens.weight"
    embedding_axis: int = 1
    """The axis of `embedding` that is the feature."""
    transposed: str | None = None
    """Regular expression for weights that are `(in, out)` in memory."""
    renames: tuple[tuple[str, str], ...] = ()
    """Regular expression and replacement, from the name in memory to the name in the checkpoint."""
    experts: tuple[str, str, str] | None = None
    """Checkpoint names of gate, up and down where experts are stored one by one and fused in memory."""
    extra_keys: Literal["gpt2_buffers", "gpt_neox_buffers", "qwen3_next_mtp", "glm4_moe_mtp"] | None = None
    """Keys which the real checkpoint has and the model ignores."""
    mxfp4: bool = False
    """Experts are stored as MXFP4 blocks and scales."""

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return int(self.config.get("num_hidden_layers", self.config.get("n_layer", 0)))

    @property
    def one_norm_for_both(self) -> bool:
        """True where one norm feeds the token mixer and the MLP in parallel: the same tensor enters both."""
        return self.norm_mlp == self.norm_attn


_SMALL = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": MAXIMUM_POSITIONS,
}
_DENSE = _SMALL | {"num_key_value_heads": 2, "intermediate_size": 48}
_DENSE_HEADS = _DENSE | {"head_dim": 8}
_EXPERTS = _DENSE_HEADS | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SLIDING = {"sliding_window": 8}
_ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)}
_GPT_OSS = (
    _SMALL
    | _SLIDING
    | _ALTERNATING
    | {
        # MXFP4 blocks are 32 long: 64 gives each row two of them.
        "hidden_size": 64,
        "intermediate_size": 64,
        "head_dim": 16,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 8.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": MAXIMUM_POSITIONS // 8,
        },
    }
)
_GPT_OSS_EXPERTS = r"experts\.(gate_up|down)_proj$"
_PER_EXPERT = ("gate_proj", "up_proj", "down_proj")
_OPT: dict[str, Any] = {
    "layers": "model.decoder.layers",
    "mlp": "fc1",
    "embedding": "model.decoder.embed_tokens.weight",
}
_POST_NORM: dict[str, Any] = {
    "norm_attn": "post_feedforward_layernorm",
    "norm_mlp": "post_attention_layernorm",
    "post_norm": True,
    "carried": True,
}

ARCHITECTURES: dict[str, Architecture] = {
    # mixture of experts
    "olmoe": Architecture(
        "olmoe",
        _DENSE | {"intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2},
        experts=_PER_EXPERT,
    ),
    "gpt_oss": Architecture("gpt_oss", _GPT_OSS, transposed=_GPT_OSS_EXPERTS, mxfp4=True),
    "gpt_oss_bf16": Architecture("gpt_oss", _GPT_OSS, transposed=_GPT_OSS_EXPERTS),
    "qwen3_moe": Architecture("qwen3_moe", _EXPERTS | {"mlp_only_layers": [1]}, experts=_PER_EXPERT),
    "mixtral": Architecture(
        "mixtral",
        _DENSE_HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2},
        renames=((r"\.mlp\.", ".block_sparse_moe."),),
        experts=("w1", "w3", "w2"),
    ),
    "qwen3_next": Architecture(
        "qwen3_next",
        _EXPERTS
        | {
            "shared_expert_intermediate_size": 16,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        },
        token_mixers=("linear_attn", "self_attn"),
        one_plus_gain=True,
        experts=_PER_EXPERT,
        extra_keys="qwen3_next_mtp",
    ),
    "glm4_moe": Architecture(
        "glm4_moe",
        _DENSE_HEADS
        | {
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
        },
        experts=_PER_EXPERT,
        extra_keys="glm4_moe_mtp",
    ),
    "glm_moe_dsa": Architecture(
        "glm_moe_dsa",
        _DENSE_HEADS
        | {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            # Each token attends to 8 others, which every second layer takes from the one before it.
            "index_topk": 8,
            "index_head_dim": 16,
            "index_n_heads": 2,
            "indexer_types": ["full", "shared"] * (LAYERS // 2),
        },
        experts=_PER_EXPERT,
    ),
    # dense, norms before the blocks
    "qwen3": Architecture("qwen3", _DENSE_HEADS),
    "llama": Architecture("llama", _DENSE),
    "gpt2": Architecture(
        "gpt2",
        {
            "vocab_size": VOCABULARY_SIZE,
            "n_embd": 32,
            "n_layer": LAYERS,
            "n_head": 4,
            "n_positions": MAXIMUM_POSITIONS,
        },
        layers="transformer.h",
        token_mixers=("attn",),
        norm_attn="ln_1",
        norm_mlp="ln_2",
        embedding="transformer.wte.weight",
        transposed=r"\.c_\w+\.weight$",
        renames=((r"^transformer\.", ""),),
        extra_keys="gpt2_buffers",
    ),
    "opt": Architecture(
        "opt",
        _SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32},
        norm_attn="self_attn_layer_norm",
        norm_mlp="final_layer_norm",
        **_OPT,
    ),
    "gemma3": Architecture(
        "gemma3_text",
        _DENSE_HEADS | _SLIDING | _ALTERNATING | {"query_pre_attn_scalar": 8},
        norm_mlp="pre_feedforward_layernorm",
        one_plus_gain=True,
    ),
    "gemma3n": Architecture(
        "gemma3n_text",
        _DENSE_HEADS
        | _SLIDING
        | _ALTERNATING
        | {
            "vocab_size_per_layer_input": VOCABULARY_SIZE,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "laurel_rank": 4,
        },
        norm_mlp="pre_feedforward_layernorm",
    ),
    "gemma4": Architecture(
        "gemma4_text",
        _DENSE_HEADS
        | _SLIDING
        | _ALTERNATING
        | {
            "global_head_dim": 16,
            "vocab_size_per_layer_input": VOCABULARY_SIZE,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
        },
        norm_mlp="pre_feedforward_layernorm",
    ),
    # dense, norms after the blocks
    "olmo2": Architecture("olmo2", _DENSE, **_POST_NORM),
    "olmo3": Architecture("olmo3", _DENSE | _SLIDING | _ALTERNATING, **_POST_NORM),
    "opt_350m": Architecture(
        "opt",
        _SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        norm_attn="final_layer_norm",
        norm_mlp="self_attn_layer_norm",
        post_norm=True,
        embedding_axis=0,
        renames=((r"^model\.decoder\.", "decoder."),),
        **(_OPT | {"embedding": "model.decoder.project_in.weight"}),
    ),
    # attention and MLP in parallel
    "gpt_neox": Architecture(
        "gpt_neox",
        _SMALL | {"intermediate_size": 64},
        layers="gpt_neox.layers",
        token_mixers=("attention",),
        embedding="gpt_neox.embed_in.weight",
        renames=((r"^lm_head\.", "embed_out."),),
        extra_keys="gpt_neox_buffers",
    ),
    "cohere": Architecture("cohere", _DENSE, norm_mlp="input_layernorm"),
    "cohere2": Architecture("cohere2", _DENSE | _SLIDING | _ALTERNATING, norm_mlp="input_layernorm"),
    "phi": Architecture("phi", _SMALL | {"intermediate_size": 48}, norm_mlp="input_layernorm"),
    "falcon": Architecture(
        "falcon",
        {name: value for name, value in _SMALL.items() if name != "max_position_embeddings"}
        | {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": False, "bias": False},
        layers="transformer.h",
        token_mixers=("self_attention",),
        norm_mlp="input_layernorm",
        embedding="transformer.word_embeddings.weight",
    ),
    # state space models
    "falcon_h1": Architecture(
        "falcon_h1",
        _DENSE
        | {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 16,
            "attention_in_multiplier": 0.5,
        },
        token_mixers=("self_attn", "mamba"),
        mlp="feed_forward",
        norm_mlp="pre_ff_layernorm",
    ),
    "mamba": Architecture(
        "mamba",
        {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8},
        layers="backbone.layers",
        token_mixers=("mixer",),
        mlp=None,
        norm_attn="norm",
        norm_mlp=None,
        embedding="backbone.embeddings.weight",
    ),
}
