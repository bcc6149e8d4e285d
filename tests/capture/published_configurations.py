"""The configurations of the seven published mixture-of-experts models, as far as they decide facts, and the rows of the
published table; data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PUBLISHED", "ROWS", "Published", "Row"]


@dataclass(frozen=True)
class Published:
    """One model: its configuration, and what its authors say of it; ``total_billions`` to three digits.

    ``dtype`` is what the checkpoint's configuration declares, None where it declares none.
    """

    model_type: str
    config: Mapping[str, Any]
    total_billions: float
    experts: int
    shared_experts: int
    top_k: int
    routing: str
    dtype: str | None = "bfloat16"
    quantisation: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of the published table, as printed."""

    total: str
    active: str
    experts: str
    top_k: str
    routing: str
    native_precision: str


def _gpt_oss(layers: int, experts: int, total_billions: float) -> Published:
    config = {
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": experts,
        "num_experts_per_tok": 4,
        "attention_bias": True,
    }
    return Published("gpt_oss", config, total_billions, experts, 0, 4, "softmax over top-k", None, "mxfp4")


PUBLISHED: dict[str, Published] = {
    "olmoe-1b-7b": Published(
        "olmoe",
        {
            "vocab_size": 50304,
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        },
        6.92, 64, 0, 8, "softmax, then top-k", "float32",
    ),
    "gpt-oss-20b": _gpt_oss(24, 32, 20.9),
    "qwen3-30b": Published(
        "qwen3_moe",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
        },
        30.5, 128, 0, 8, "softmax, then top-k, renormalised",
    ),
    "mixtral-8x7b": Published(
        "mixtral",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        46.7, 8, 0, 2, "softmax over top-k",
    ),
    "qwen3-next-80b": Published(
        "qwen3_next",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 5120,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_conv_kernel_dim": 4,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "norm_topk_prob": True,
        },
        79.7, 512, 1, 10, "softmax, then top-k, renormalised",
    ),
    "glm-4.5-air": Published(
        "glm4_moe",
        {
            "vocab_size": 151552,
            "hidden_size": 4096,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 46,
            "num_attention_heads": 96,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "attention_bias": True,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 1,
            "use_qk_norm": False,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
        },
        106.9, 128, 1, 8, "sigmoid with bias correction, then top-k, renormalised",
    ),
    "gpt-oss-120b": _gpt_oss(36, 128, 116.8),
}  # fmt: skip
"""Sources: each model's config.json on the Hub, and its card or paper for the counts."""

ROWS: dict[str, Row] = {
    "olmoe-1b-7b": Row("7B", "1.3B", "64", "8", "Token-based (dropless)", "float32"),
    "gpt-oss-20b": Row("21B", "3.6B", "128*", "4*", "Standard top-k", "MXFP4 (MoE weights)"),
    "qwen3-30b": Row("30.5B", "3.3B", "128", "8", "Standard top-k", "bfloat16"),
    "mixtral-8x7b": Row("47B", "12.9B", "8", "2", "Standard top-k", "bfloat16"),
    "qwen3-next-80b": Row("80B", "3.0B", "512+1 shared", "10", "Standard top-k", "bfloat16"),
    "glm-4.5-air": Row("106B", "12.0B", "128+1 shared", "8", "Sigmoid gating (loss-free balance)", "bfloat16"),
    "gpt-oss-120b": Row("117B", "5.1B", "128", "4", "Softmax-weighted top-k", "MXFP4 (MoE weights)"),
}
"""The published table. A star there means "inferred from the 120B": GPT-OSS-20B's own configuration says 32 experts."""
