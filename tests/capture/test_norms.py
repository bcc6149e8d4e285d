"""The norm that feeds each site is found and its rule with it, on every architecture, without weights or names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from capture.entrances import trace_entrances
from capture.model_facts import build_skeleton
from capture.norms import norm_rule, with_norms
from capture.sites import SITES, Site, find_sites
from schemas.errors import CaptureError, InputError
from schemas.layout import RESIDUAL
from schemas.provenance import NormInfo
from tests.checkpoints import ARCHITECTURES, Architecture

FEATURES = 16
LAYER_NORMS = {"gpt2", "opt", "opt_350m", "gpt_neox", "cohere", "cohere2", "phi", "falcon"}
UNBIASED = {"cohere", "cohere2"}


def sites_of(name: str, checkpoint: Callable[[str], Path], *wanted: str) -> dict[str, Site]:
    model = build_skeleton(checkpoint(name), "auto").model
    return {site.name: site for site in with_norms(model, find_sites(model, wanted or None))}


def fed_by(name: str, about: Architecture, site: str) -> str | None:
    """The norm typed by hand where it is in the site's own layer and nothing lies between; None elsewhere."""
    if about.carried or (about.post_norm and site == "ln_attn") or (name == "falcon_h1" and site == "ln_attn"):
        return None
    return about.norm_attn if site == "ln_attn" else about.norm_mlp


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_norms_are_those_typed_by_hand(name: str, checkpoint: Callable[[str], Path]) -> None:
    about = ARCHITECTURES[name]
    for site in sites_of(name, checkpoint).values():
        if site.alias is not None:
            assert about.one_norm_for_both
            assert site.norm is None
            continue
        norm, typed = site.norm, fed_by(name, about, site.name)
        assert norm is not None
        if typed is None:
            assert (norm.kind, norm.modules) == (None, [])
            assert norm.reason is not None
            continue
        assert norm.modules == [f"{about.layers}.{layer}.{typed}" for layer in range(about.layer_count)]
        assert norm.kind == ("layer" if name in LAYER_NORMS else "rms")
        assert norm.one_plus == about.one_plus_gain
        assert (norm.gain, norm.reason) == ("weight", None)
        assert norm.bias == ("bias" if name in LAYER_NORMS - UNBIASED else None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("olmo2", "what enters model.layers.*.self_attn is the layer's own input"),
        ("opt_350m", "what enters model.decoder.layers.*.self_attn is the layer's own input"),
        ("falcon_h1", "what enters model.layers.*.self_attn is no module's output"),
    ],
)
def test_why_a_site_has_no_norm_is_said(name: str, reason: str, checkpoint: Callable[[str], Path]) -> None:
    norm = sites_of(name, checkpoint)["ln_attn"].norm
    assert norm is not None
    assert norm.reason == reason


@pytest.mark.parametrize(("model_type", "gain"), [("bloom", "weight"), ("olmo", None)])
def test_norms_of_layers_that_hand_on_what_their_mlp_returns_and_with_an_eps_of_the_code(
    model_type: str, gain: str | None
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes, intermediate_size=48))
    for site in with_norms(model, find_sites(model)):
        assert site.norm is not None
        assert (site.norm.kind, site.norm.eps, site.norm.gain, site.norm.reason) == ("layer", 1e-5, gain, None)


@pytest.mark.parametrize("name", ["opt_350m", "gpt2"])
def test_a_norm_of_the_layer_before_is_seen_as_such(name: str, checkpoint: Callable[[str], Path]) -> None:
    model = build_skeleton(checkpoint(name), "auto").model
    entrances = trace_entrances(model, find_sites(model))
    before = "model.decoder.layers.1.final_layer_norm" if name == "opt_350m" else None  # else a sum
    assert entrances[RESIDUAL, 2].made_by == before


def test_a_traced_model_is_left_as_it_was(checkpoint: Callable[[str], Path]) -> None:
    model = build_skeleton(checkpoint("falcon_h1"), "auto").model
    model.model.ran = False

    def leave_something(module: Any, _: Any) -> None:
        module.ran = True

    model.model.register_forward_pre_hook(leave_something)
    with_norms(model, find_sites(model))
    assert not model.model.ran
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert len(hooks) == 1
    assert not any("forward" in vars(module) for module in model.modules())
    assert model.training


def test_a_norm_that_runs_again_before_its_site_is_not_taken_for_it(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Any, hidden_states: torch.Tensor, **others: Any) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        scale = self.input_layernorm(hidden_states * 2)
        hidden_states = hidden_states + self.self_attn(hidden_states=normed, **others)[0] * scale
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    attn, mlp = sites_of("llama", checkpoint).values()
    assert attn.norm == NormInfo(reason="what enters model.layers.*.self_attn is no module's output")
    assert mlp.norm is not None
    assert mlp.norm.kind == "rms"


def test_a_model_that_does_not_run_without_weights_has_no_norms_and_says_so(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_skeleton(checkpoint("llama"), "auto").model
    sites = find_sites(model, [*SITES, RESIDUAL])

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("asks for a value")

    monkeypatch.setattr(type(model.model), "forward", fails)
    with pytest.raises(CaptureError, match="LlamaForCausalLM does not run without weights: asks for a value"):
        trace_entrances(model, sites)
    attn, mlp, residual = with_norms(model, sites)
    assert attn.norm == mlp.norm == NormInfo(reason="LlamaForCausalLM does not run without weights: asks for a value")
    assert residual == sites[-1]


def test_a_site_that_does_not_run_without_weights_is_named(checkpoint: Callable[[str], Path]) -> None:
    model = build_skeleton(checkpoint("llama"), "auto").model
    never = Site("ln_mlp", tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in range(4)))
    with pytest.raises(CaptureError, match=r"ln_mlp of layer 0 \(model\.layers\.0\.self_attn\.q_proj\) does not run"):
        trace_entrances(model, [never])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_residual_is_the_layers_input(name: str, checkpoint: Callable[[str], Path]) -> None:
    about = ARCHITECTURES[name]
    wanted = [*SITES[: 1 + (about.mlp is not None)], RESIDUAL]
    refused = {
        "gemma3n": r"has the shape \(4, 5, 3, 32\)",
        "mamba": r"layers\.1 is float32, .*: choose --dtype float32",
    }
    if name in refused:
        with pytest.raises(InputError, match=f"--sites residual: what enters .*{refused[name]}"):
            sites_of(name, checkpoint, *wanted)
        return
    residual = sites_of(name, checkpoint, *wanted)[RESIDUAL]
    assert residual.modules == tuple(f"{about.layers}.{layer}" for layer in range(about.layer_count))
    assert residual.alias == ("ln_attn" if about.carried or about.post_norm else None)
    assert residual.norm is None


class OnePlus(nn.Module):
    """An RMS norm that multiplies by 1 + w, whose parameter and eps have names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.tiny = nn.Parameter(torch.zeros(FEATURES)), 1e-4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.tiny).rsqrt() * (1 + self.scale)


class Shifted(nn.Module):
    """A norm whose one parameter is added, without eps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (FEATURES,), eps=0.0) + self.weight


class Largest(nn.Module):
    """A norm by the largest magnitude: no rule known here."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.abs().amax(-1, keepdim=True)


class Buffered(nn.RMSNorm):
    """A norm whose gain is no parameter."""

    def __init__(self) -> None:
        super().__init__(FEATURES, eps=1e-6, elementwise_affine=False)
        self.register_buffer("gain", torch.ones(FEATURES))


@pytest.mark.parametrize(
    ("module", "rule"),
    [
        (nn.LayerNorm(FEATURES), NormInfo(kind="layer", eps=1e-5, gain="weight", bias="bias")),
        (nn.LayerNorm(FEATURES, bias=False), NormInfo(kind="layer", eps=1e-5, gain="weight")),
        (nn.LayerNorm(FEATURES, eps=1e-12), NormInfo(kind="layer", eps=1e-12, gain="weight", bias="bias")),
        (nn.LayerNorm(FEATURES, elementwise_affine=False), NormInfo(kind="layer", eps=1e-5)),
        (nn.RMSNorm(FEATURES, eps=1e-6), NormInfo(kind="rms", eps=1e-6, gain="weight")),
        (OnePlus(), NormInfo(kind="rms", eps=1e-4, gain="scale", one_plus=True)),
        (Shifted(), NormInfo(kind="layer", eps=0.0, bias="weight")),
        (nn.RMSNorm(FEATURES), None),  # its eps depends on the dtype
        (nn.RMSNorm(FEATURES // 2, eps=1e-6), None),
        (Buffered(), None),
        (Largest(), None),
        (nn.Identity(), None),
        (nn.Dropout(), None),
        (nn.SiLU(), None),
        (nn.Linear(FEATURES, FEATURES), None),
        (nn.Embedding(FEATURES, FEATURES), None),
        (nn.Softmax(-1), None),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_norms_rule_is_found_by_what_it_computes(module: nn.Module, rule: NormInfo | None, device: str) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert norm_rule(module if device == "cpu" else module.to(device), FEATURES) == rule
    if device == "cpu":
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
