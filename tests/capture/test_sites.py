"""Sites are found on every architecture as a table typed by hand has them, or the modules that there are get listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from capture.model_facts import build_skeleton
from capture.sites import Site, decoder_layers, find_sites
from schemas.errors import InputError
from tests.checkpoints import ARCHITECTURES, SITES

Checkpoint = Callable[[str], Path]


def skeleton(checkpoint: Checkpoint, name: str) -> Any:
    return build_skeleton(checkpoint(name), "auto").model


def typed_by_hand(name: str, model: Any) -> list[Site]:
    """The sites of the table: the first of its token mixers that a layer has, and its MLP."""
    about = ARCHITECTURES[name]
    blocks = list(model.get_submodule(about.layers).children())
    mixers = [next(mixer for mixer in about.token_mixers if hasattr(block, mixer)) for block in blocks]
    sites = [Site("ln_attn", tuple(f"{about.layers}.{layer}.{mixer}" for layer, mixer in enumerate(mixers)))]
    if about.mlp is not None:
        paths = tuple(f"{about.layers}.{layer}.{about.mlp}" for layer in range(about.layer_count))
        sites.append(Site("ln_mlp", paths, "ln_attn" if about.one_norm_for_both else None))
    return sites


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sites_are_those_typed_by_hand(name: str, checkpoint: Checkpoint) -> None:
    model = skeleton(checkpoint, name)
    assert list(find_sites(model)) == typed_by_hand(name, model)
    path, layers = decoder_layers(model)
    assert path == ARCHITECTURES[name].layers
    assert len(layers) == ARCHITECTURES[name].layer_count
    for site in find_sites(model):
        for module in site.modules:
            assert isinstance(model.get_submodule(module), nn.Module)


def test_layers_may_differ_in_their_token_mixer(checkpoint: Checkpoint) -> None:
    (attn, _) = find_sites(skeleton(checkpoint, "qwen3_next"))
    assert [path.rsplit(".", 1)[1] for path in attn.modules] == [*["linear_attn"] * 3, "self_attn"]


@pytest.mark.parametrize("name", [name for name, about in ARCHITECTURES.items() if about.mlp is not None])
def test_sites_can_be_chosen(name: str, checkpoint: Checkpoint) -> None:
    model = skeleton(checkpoint, name)
    attn, mlp = typed_by_hand(name, model)
    assert find_sites(model, ["ln_attn"]) == (attn,)
    assert find_sites(model, ["ln_mlp"]) == (Site("ln_mlp", mlp.modules),)  # alone it is nobody's alias
    assert find_sites(model, ["ln_mlp", "ln_attn"]) == find_sites(model, SITES) == (attn, mlp)


def test_an_unknown_site_is_named_with_the_known_ones(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"--sites ln_attn,residuel: no site is called 'residuel'; sites: ln_attn, ln"):
        find_sites(skeleton(checkpoint, "llama"), ["ln_attn", "residuel"])


def test_a_wanted_site_that_the_model_lacks_lists_the_modules(checkpoint: Checkpoint) -> None:
    message = (
        r"MambaForCausalLM: layer 0 \(MambaBlock\) has no module for site ln_mlp \(looked for mlp, .*\)\. "
        r"Its modules: norm: MambaRMSNorm, mixer: MambaMixer\. Capture the rest with --sites ln_attn"
    )
    with pytest.raises(InputError, match=message):
        find_sites(skeleton(checkpoint, "mamba"), ["ln_mlp"])


class Layer(nn.Module):
    """A decoder layer with these children."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class Model(nn.Module):
    """A model of such layers under ``inner``, which ``get_decoder`` names."""

    _no_split_modules: Any = ("Layer",)

    def __init__(self, *layers: nn.Module, **others: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.blocks = nn.ModuleList(layers)
        for name, child in others.items():
            self.add_module(name, child)

    def get_decoder(self) -> nn.Module:
        return self.inner


def test_a_layer_without_a_known_mixer_is_named_with_its_modules() -> None:
    known = Layer(self_attn=nn.Identity(), mlp=nn.Identity())
    model = Model(known, Layer(wavelet=nn.Identity(), mlp=nn.Linear(2, 2)))
    with pytest.raises(InputError, match=r"layer 1 \(Layer\) has no module for site ln_attn .*wavelet: Identity, mlp"):
        find_sites(model)
    assert find_sites(model, ["ln_mlp"]) == (Site("ln_mlp", ("inner.blocks.0.mlp", "inner.blocks.1.mlp")),)


def test_an_mlp_that_only_some_layers_have_is_no_model_without_mlps() -> None:
    model = Model(Layer(self_attn=nn.Identity(), mlp=nn.Identity()), Layer(self_attn=nn.Identity()))
    with pytest.raises(InputError, match=r"layer 1 \(Layer\) has no module for site ln_mlp"):
        find_sites(model)


def test_a_list_of_experts_is_no_mlp() -> None:
    model = Model(Layer(attn=nn.Identity(), mlp=nn.ModuleList([nn.Identity()]), ffn=nn.Identity()))
    assert find_sites(model, ["ln_mlp"])[0].modules == ("inner.blocks.0.ffn",)


def test_the_norms_of_a_layer_decide_whether_its_mlp_is_an_alias() -> None:
    def layer(norms: int) -> Layer:
        return Layer(
            **{f"norm_{number}": nn.LayerNorm(2) for number in range(norms)}, attn=nn.Identity(), mlp=nn.Identity()
        )

    aliases = {norms: find_sites(Model(layer(norms), layer(norms)))[1].alias for norms in (0, 1, 2)}
    assert aliases == {0: None, 1: "ln_attn", 2: None}
    assert find_sites(Model(layer(1), layer(2)))[1].alias is None


def test_no_decoder_layers_lists_the_module_lists() -> None:
    model = Model(nn.Linear(2, 2), nn.Linear(2, 2))
    model.inner.adapters = nn.ModuleList()
    with pytest.raises(
        InputError, match=r"\(no ModuleList of \['Layer'\]\)\. Module lists: blocks of 2 Lin.*; adapters of 0"
    ):
        find_sites(model)


@pytest.mark.parametrize("classes", [None, ()])
def test_a_model_that_names_no_layer_class(classes: Any) -> None:
    model = Model(nn.Linear(2, 2))
    model._no_split_modules = classes
    with pytest.raises(InputError, match=r"no list of decoder layers found \(no ModuleList of \[\]\)"):
        find_sites(model)


def test_the_longest_list_under_the_decoder_is_taken() -> None:
    block = Layer(attn=nn.Identity(), mlp=nn.Identity())
    model = Model(block, block, block, encoder=nn.ModuleList([block] * 5))
    model.inner.extra = nn.ModuleList([block])
    path, layers = decoder_layers(model)
    assert (path, len(layers)) == ("inner.blocks", 3)
