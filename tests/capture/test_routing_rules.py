"""What is said of each family's expert weights, against its router's own forward: the words, computed in NumPy."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from capture.model_facts import build_skeleton
from capture.presets import PUBLISHED_MOE_TABLE
from capture.routing_rules import ROUTING_RULES, UNKNOWN_RULE, routing_in_words
from tests.capture.published_configurations import PUBLISHED

Floats = np.ndarray[Any, np.dtype[np.float64]]

EXPERTS, TOP_K, FEATURES, TOKENS = 16, 3, 24, 200

SETTINGS: dict[str, dict[str, Any]] = {
    # put into every configuration, whether its router reads them or not
    "plain": {"norm_topk_prob": False, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1},
    "renormalised": {"norm_topk_prob": True, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1},
    "scaled": {"norm_topk_prob": False, "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1},
    "grouped": {"norm_topk_prob": True, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2},
}


def by_the_words(words: str, logits: Floats, bias: Floats) -> Floats:
    """(token, expert) weights, zero where an expert is not chosen, as ``words`` describe them."""
    match = re.fullmatch(
        r"(softmax over top-k|softmax, then top-k|sigmoid with bias correction, then top-k)"
        r"( in (\d+) of (\d+) groups)?(, renormalised)?(, times ([\d.]+))?",
        words,
    )
    assert match, words
    start, _, kept, groups, renormalised, _, factor = match.groups()
    weights = np.zeros_like(logits)
    for token, row in enumerate(logits):
        scores = 1 / (1 + np.exp(-row)) if start.startswith("sigmoid") else np.exp(row) / np.exp(row).sum()
        wanted = scores + bias if "bias" in start else scores
        if groups:
            size = EXPERTS // int(groups)
            parts = [wanted[group * size : (group + 1) * size] for group in range(int(groups))]
            strength = [np.sort(part)[-2:].sum() for part in parts]
            for group in np.argsort(strength)[: -int(kept)]:
                wanted[group * size : (group + 1) * size] = -np.inf
        chosen = np.argsort(wanted)[-TOP_K:]
        given = np.exp(row[chosen]) / np.exp(row[chosen]).sum() if start.endswith("over top-k") else scores[chosen]
        if renormalised:
            given = given / given.sum()
        weights[token, chosen] = given * float(factor or 1)
    return weights


def configured(model_type: str, settings: str) -> Any:
    config = AutoConfig.for_model(model_type).get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    sizes = {name: EXPERTS for name in names if hasattr(config, name)}
    for name, value in {**sizes, **SETTINGS[settings], "num_experts_per_tok": TOP_K, "hidden_size": FEATURES}.items():
        setattr(config, name, value)
    return config


def router_of(config: Any, model_type: str) -> torch.nn.Module:
    """The family's own router, with seeded random parameters and buffers."""
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    (name,) = (name for name in vars(module) if re.fullmatch(r"\w+Top[kK]Router", name))
    router: torch.nn.Module = getattr(module, name)(config)
    random = torch.Generator().manual_seed(len(model_type))
    for tensor in (*router.parameters(), *router.buffers()):
        tensor.data.copy_(torch.randn(tensor.shape, generator=random) * 0.3)
    return router


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("model_type", ROUTING_RULES)
def test_the_words_give_the_routers_weights(model_type: str, settings: str) -> None:
    config = configured(model_type, settings)
    router = router_of(config, model_type)
    x = torch.randn(TOKENS, FEATURES, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        _, weights, ids = router(x)
    found = np.zeros((TOKENS, EXPERTS))
    np.put_along_axis(found, ids.numpy(), weights.numpy().astype(np.float64), axis=1)

    held = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in router.state_dict().items()}
    logits = x.numpy().astype(np.float64) @ held["weight"].T + held.get("bias", 0.0)
    correction = held.get("e_score_correction_bias", np.zeros(EXPERTS))
    expected = by_the_words(routing_in_words(config), logits, correction)
    np.testing.assert_array_equal(found != 0, expected != 0)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("words", ["softmax over top-k", "softmax, then top-k", "softmax, then top-k, renormalised"])
def test_renormalising_is_a_softmax_over_the_chosen(words: str) -> None:
    logits = np.random.default_rng(0).standard_normal((TOKENS, EXPERTS))
    weights = by_the_words(words, logits, np.zeros(EXPERTS))
    same = np.allclose(weights, by_the_words("softmax over top-k", logits, np.zeros(EXPERTS)))
    assert same == (words != "softmax, then top-k")


def test_a_family_without_a_row_is_said_to_be_unknown(tmp_path: Path) -> None:
    config = AutoConfig.for_model("phimoe", num_hidden_layers=1, hidden_size=64, intermediate_size=32, vocab_size=50)
    config.norm_topk_prob = True  # a setting that may mean nothing there
    config.save_pretrained(tmp_path)
    facts = build_skeleton(tmp_path, "auto").facts
    assert (facts.experts, facts.top_k, facts.routing) == (16, 2, UNKNOWN_RULE)


def test_the_families_of_the_published_table_are_known() -> None:
    assert {PUBLISHED[name].model_type for name in PUBLISHED_MOE_TABLE} <= ROUTING_RULES.keys()
