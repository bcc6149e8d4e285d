"""Parameter counts and names read from a model's own configuration and shapes, against counting loops and papers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from capture.model_facts import ModelFacts, build_skeleton, expert_parameters
from capture.presets import PUBLISHED_MOE_TABLE
from capture.sites import find_sites
from schemas.errors import InputError
from tests.capture.published_configurations import PUBLISHED, ROWS, Published
from tests.checkpoints import ARCHITECTURES, VOCABULARY_SIZE

Checkpoint = Callable[[str], Path]

MIXTURES = {
    # experts, shared experts, experts a token
    "olmoe": (8, 0, 2),
    "gpt_oss": (4, 0, 2),
    "gpt_oss_bf16": (4, 0, 2),
    "qwen3_moe": (4, 0, 2),
    "mixtral": (4, 0, 2),
    "qwen3_next": (4, 1, 2),
    "glm4_moe": (4, 1, 2),
    "glm_moe_dsa": (4, 1, 2),
}

PACKED_OR_UNUSED = (
    r"e_score_correction_bias$|layer_scalar$|_(scales|blocks)$|^mtp\.|layers\.46\.|"
    r"\.(attn|attention)\.(masked_)?bias$|inv_freq$"
)
"""Tensors of a checkpoint that are no parameters of the model's class, or not in their own shape."""


def stored(folder: Path) -> dict[str, int]:
    """Tensor name -> number of values in the checkpoint; for MXFP4 two values a byte of blocks."""
    tensors = load_file(folder / "model.safetensors")
    counts = {name: tensor.numel() for name, tensor in tensors.items() if not re.search(PACKED_OR_UNUSED, name)}
    return counts | {name: 2 * tensor.numel() for name, tensor in tensors.items() if name.endswith("_blocks")}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_total_parameters_are_those_loaded(name: str, checkpoint: Checkpoint, plain_model: Callable[..., Any]) -> None:
    facts = build_skeleton(checkpoint(name), "auto").facts
    loaded = {id(parameter): parameter.numel() for parameter in plain_model(name).parameters()}
    assert facts.total_parameters == sum(loaded.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_total_parameters_are_those_of_the_checkpoint(name: str, checkpoint: Checkpoint) -> None:
    counts = stored(checkpoint(name))
    assert build_skeleton(checkpoint(name), "auto").facts.total_parameters == sum(counts.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_and_sizes_are_the_configurations(name: str, checkpoint: Checkpoint) -> None:
    config = json.loads((checkpoint(name) / "config.json").read_text())
    skeleton = build_skeleton(checkpoint(name), "auto")
    facts, about = skeleton.facts, ARCHITECTURES[name]
    assert facts.architecture == config["architectures"][0]
    assert facts.model_type == about.model_type
    assert facts.layers == about.layer_count
    assert facts.hidden_size == (64 if about.model_type == "gpt_oss" else 32)
    assert facts.vocabulary_size == VOCABULARY_SIZE
    assert facts.max_positions == {"falcon": 2048, "mamba": None}.get(name, 256)
    assert facts.native_dtype == "bfloat16"
    assert skeleton.dtype == torch.bfloat16
    assert facts.quantisation == ("mxfp4" if name == "gpt_oss" else None)
    assert all(parameter.device.type == "meta" for parameter in skeleton.model.parameters())
    assert (facts.experts, facts.shared_experts, facts.top_k) == MIXTURES.get(name, (None, None, None))
    assert (facts.routing is None) == (facts.experts_implementation is None) == (name not in MIXTURES)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_bytes_follow_the_dtype(dtype: str, checkpoint: Checkpoint) -> None:
    skeleton = build_skeleton(checkpoint("qwen3"), dtype)
    assert str(skeleton.dtype) == f"torch.{dtype}"
    assert skeleton.facts.native_dtype == "bfloat16"
    assert skeleton.facts.parameter_bytes == skeleton.facts.total_parameters * (4 if dtype == "float32" else 2)


@pytest.mark.parametrize("name", MIXTURES)
def test_routed_experts_are_counted_from_the_checkpoint(name: str, checkpoint: Checkpoint) -> None:
    experts, _, top_k = MIXTURES[name]
    counts = stored(checkpoint(name))
    routed = sum(count for tensor, count in counts.items() if ".experts." in tensor)
    embedding = counts["model.embed_tokens.weight"]
    skeleton = build_skeleton(checkpoint(name), "auto")
    assert routed
    assert expert_parameters(skeleton.model, experts) == routed
    assert not skeleton.config.tie_word_embeddings
    unused = embedding + routed - routed * top_k // experts
    assert skeleton.facts.active_parameters == skeleton.facts.total_parameters - unused


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in MIXTURES])
def test_a_dense_model_uses_all_but_an_untied_input_embedding(name: str, checkpoint: Checkpoint) -> None:
    skeleton = build_skeleton(checkpoint(name), "auto")
    tied = skeleton.model.get_output_embeddings().weight is skeleton.model.get_input_embeddings().weight
    tied = tied or skeleton.config.tie_word_embeddings
    embedding = 0 if tied else skeleton.model.get_input_embeddings().weight.numel()
    assert skeleton.facts.active_parameters == skeleton.facts.total_parameters - embedding


class Fused(nn.Module):
    """Four experts in one tensor each for up and down, a bias, and something that is not theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Module()
        self.experts.up = nn.Parameter(torch.empty(4, 6, 3))
        self.experts.up_bias = nn.Parameter(torch.empty(4, 6))
        self.experts.scale = nn.Parameter(torch.empty(7))
        self.gate = nn.Linear(3, 4)


class Separate(nn.Module):
    """The same experts one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 6) for _ in range(4))
        self.gate, self.shared_expert = nn.Linear(3, 4), nn.Linear(3, 6)


def test_fused_and_separate_experts_count_alike() -> None:
    assert expert_parameters(Fused(), 4) == expert_parameters(Separate(), 4) == 4 * (6 * 3 + 6)
    assert expert_parameters(nn.Linear(4, 4), 4) == 0


def expert_layers(published: Published) -> int:
    return int(published.config["num_hidden_layers"]) - int(published.config.get("first_k_dense_replace", 0))


def values_of_an_expert(published: Published) -> int:
    """Gate, up and down; GPT-OSS has a bias for each."""
    hidden = int(published.config["hidden_size"])
    inner = int(published.config.get("moe_intermediate_size", published.config["intermediate_size"]))
    return 3 * hidden * inner + (2 * inner + hidden if published.model_type == "gpt_oss" else 0)


@pytest.fixture(scope="module")
def published_facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFacts]:
    """Facts of each model of the published table, from a configuration as its checkpoint has it."""
    found = {}
    for name, published in PUBLISHED.items():
        declared = {"dtype": published.dtype}
        if published.quantisation:
            declared = {"quantization_config": {"quant_method": published.quantisation}}
        folder = tmp_path_factory.mktemp(name)
        AutoConfig.for_model(published.model_type, **published.config, **declared).save_pretrained(folder)
        assert ("dtype" in json.loads((folder / "config.json").read_text())) == (published.dtype is not None)
        found[name] = build_skeleton(folder, "auto").facts
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_facts(name: str, published_facts: dict[str, ModelFacts]) -> None:
    published, facts = PUBLISHED[name], published_facts[name]
    digits = len(str(published.total_billions).split(".")[1])
    assert round(facts.total_parameters / 1e9, digits) == published.total_billions
    assert (facts.experts, facts.shared_experts, facts.top_k) == (
        published.experts,
        published.shared_experts,
        published.top_k,
    )
    assert facts.routing == published.routing
    assert facts.quantisation == published.quantisation
    assert facts.native_dtype == (published.dtype or "bfloat16")
    assert facts.parameter_bytes >= facts.total_parameters * (4 if published.dtype == "float32" else 2)
    embedding = published.config["vocab_size"] * published.config["hidden_size"]
    routed = expert_layers(published) * values_of_an_expert(published)
    assert facts.active_parameters == facts.total_parameters - embedding - routed * (
        published.experts - published.top_k
    )


def billions(text: str) -> float:
    return float(text.removesuffix("B"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_facts_are_those_of_the_published_table(name: str, published_facts: dict[str, ModelFacts]) -> None:
    row, facts = ROWS[name], published_facts[name]
    assert facts.total_parameters / 1e9 == pytest.approx(billions(row.total), rel=0.015)
    # Vendors count active parameters by different rules, Qwen3-Next's name by the widest margin: decision 024.
    assert facts.active_parameters / 1e9 == pytest.approx(billions(row.active), rel=0.19)
    experts = f"{facts.experts}+{facts.shared_experts} shared" if facts.shared_experts else f"{facts.experts}"
    if row.experts.endswith("*"):  # inferred there from a sister model; its own configuration says otherwise
        assert (name, row.experts, experts) == ("gpt-oss-20b", "128*", "32")
    else:
        assert experts == row.experts
    assert str(facts.top_k) == row.top_k.removesuffix("*")
    assert str(facts.routing).startswith("sigmoid") == row.routing.startswith("Sigmoid")
    assert row.routing != "Softmax-weighted top-k" or facts.routing == "softmax over top-k"
    native = "MXFP4 (MoE weights)" if facts.quantisation == "mxfp4" else facts.native_dtype
    assert native == row.native_precision


def test_every_model_of_the_published_table_is_there() -> None:
    assert tuple(PUBLISHED) == tuple(ROWS) == PUBLISHED_MOE_TABLE


def test_gpt_oss_is_counted_as_its_card_counts_it(published_facts: dict[str, ModelFacts]) -> None:
    for name, total, active in (("gpt-oss-20b", 20.91, 3.61), ("gpt-oss-120b", 116.83, 5.13)):
        facts = published_facts[name]
        assert round(facts.total_parameters / 1e9, 2) == total
        assert round(facts.active_parameters / 1e9, 2) == active


def test_experts_without_a_top_k_are_refused(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 50, "intermediate_size": 16}
    config = AutoConfig.for_model("deepseek_v2", **sizes, moe_intermediate_size=16, n_routed_experts=8)
    assert config.num_experts_per_tok is None
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"deepseek_v2 with 8 experts: .* how many of them a token uses"):
        build_skeleton(tmp_path, "auto")


def test_layers_are_counted_where_they_are(tmp_path: Path) -> None:
    """LongCat's configuration has twice as many: each of its layers has two attentions, so neither is its site."""
    sizes = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "vocab_size": 50, "n_routed_experts": 4}
    config = AutoConfig.for_model("longcat_flash", **sizes, ffn_hidden_size=16, expert_ffn_hidden_size=16)
    assert config.num_hidden_layers == 4
    config.save_pretrained(tmp_path)
    skeleton = build_skeleton(tmp_path, "auto")
    assert skeleton.facts.layers == len(find_sites(skeleton.model, ["ln_mlp"])[0].modules) == 2
    with pytest.raises(InputError, match=r"site ln_attn \(its self_attn is a list of 2, .*rest with --sites ln_mlp"):
        find_sites(skeleton.model)


def test_layers_beside_an_encoder_of_another_number(tmp_path: Path) -> None:
    """Blenderbot's configuration counts the encoder's, and the model names no class of either."""
    AutoConfig.for_model("blenderbot", encoder_layers=2, decoder_layers=3).save_pretrained(tmp_path)
    assert build_skeleton(tmp_path, "auto").facts.layers == 3


def test_what_differs_from_layer_to_layer_is_the_largest(tmp_path: Path) -> None:
    config = AutoConfig.for_model("dots3_note_text", num_hidden_layers=3, n_routed_experts=8)
    heads = [config.per_layer_config[layer].num_attention_heads for layer in range(3)]
    assert len(set(heads)) == 2
    config.save_pretrained(tmp_path)
    assert build_skeleton(tmp_path, "auto").facts.attention_heads == max(heads)


def test_a_configuration_without_a_hidden_size_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("blt").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"blt: its config\.json gives no hidden_size"):
        build_skeleton(tmp_path, "auto")


def test_an_unreadable_quantisation_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = json.loads((checkpoint("llama") / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(InputError, match="quantised with gptq; readable here: unquantised and mxfp4"):
        build_skeleton(tmp_path, "auto")


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="t5 is no causal language model"):
        build_skeleton(tmp_path, "auto")


def test_a_dtype_that_no_store_keeps_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = json.loads((checkpoint("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float64"}))
    with pytest.raises(
        InputError, match="the checkpoint's dtype is float64; choose --dtype bfloat16, float16, float32"
    ):
        build_skeleton(tmp_path, "auto")
    assert build_skeleton(tmp_path, "float32").facts.native_dtype == "float64"


def test_a_configuration_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "quantum_leap"}))
    with pytest.raises(InputError, match=r"config\.json is not one transformers can read"):
        build_skeleton(tmp_path, "auto")
