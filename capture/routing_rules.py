"""How each family of mixtures weighs the experts that it chooses for a token, as data: a new family is a row here.

Every row is checked against its router's own forward (tests/capture/test_routing_rules.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["ROUTING_RULES", "UNKNOWN_RULE", "RoutingRule", "routing_in_words"]

UNKNOWN_RULE = "top-k, rule unknown"
"""What is said of a family without a row."""


@dataclass(frozen=True)
class RoutingRule:
    """``words`` for what the router always does; the rest say which settings of its configuration it reads.

    ``renormalises``: ``norm_topk_prob`` divides the chosen weights by their sum. ``scales``: they are then multiplied
    by ``routed_scaling_factor``. ``groups``: experts are chosen from the ``topk_group`` best of ``n_group`` groups.
    """

    words: str
    renormalises: bool = False
    scales: bool = False
    groups: bool = False


_SOFTMAX_OF_CHOSEN = RoutingRule("softmax over top-k")
_SOFTMAX_OF_ALL = RoutingRule("softmax, then top-k", renormalises=True)
_SIGMOID = RoutingRule("sigmoid with bias correction, then top-k", renormalises=True, scales=True, groups=True)

ROUTING_RULES: Mapping[str, RoutingRule] = MappingProxyType(
    {
        "mixtral": _SOFTMAX_OF_CHOSEN,
        "gpt_oss": _SOFTMAX_OF_CHOSEN,
        "qwen3_5_moe": _SOFTMAX_OF_CHOSEN,
        "olmoe": _SOFTMAX_OF_ALL,
        "flex_olmo": _SOFTMAX_OF_ALL,
        "qwen2_moe": _SOFTMAX_OF_ALL,
        "qwen3_moe": _SOFTMAX_OF_ALL,
        "qwen3_next": _SOFTMAX_OF_ALL,
        "glm4_moe": _SIGMOID,
        "glm4_moe_lite": _SIGMOID,
        "glm_moe_dsa": _SIGMOID,
        "deepseek_v3": _SIGMOID,
    }
)
"""By ``model_type``, without a composite model's ``_text``."""


def routing_in_words(text: Any) -> str:
    """The meaning of the expert weights of a (text) configuration: the family's rule, and what its settings add.

    The bias corrects the choice of experts, not their weights. A family that is not known is said to be so.
    """
    rule = ROUTING_RULES.get(text.model_type.removesuffix("_text"))
    if rule is None:
        return UNKNOWN_RULE
    words = rule.words
    if rule.groups and text.n_group > text.topk_group:
        words += f" in {text.topk_group} of {text.n_group} groups"
    if rule.renormalises and text.norm_topk_prob:
        words += ", renormalised"
    if rule.scales and text.routed_scaling_factor != 1:
        words += f", times {text.routed_scaling_factor:g}"
    return words
