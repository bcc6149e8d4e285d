"""One layer's weights, read in place: transformers' own bits, in two buffers that are used in turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Mxfp4Config

from capture import arena, comparison, placement
from capture.layer_weights import LayerWeights
from capture.model_facts import build_skeleton
from tests.checkpoints import ARCHITECTURES, write_checkpoint

CPU = torch.device("cpu")
DTYPES = {
    "bfloat16": ("bfloat16", "bfloat16"),
    "float32 to bfloat16": ("float32", "bfloat16"),
    "float32 to float16": ("float32", "float16"),
    "bfloat16 to float32": ("bfloat16", "float32"),
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def stored(layer: nn.Module) -> dict[str, torch.Tensor]:
    return dict(layer.state_dict(keep_vars=True))


def whole_model(folder: Path, dtype: str, *, mxfp4: bool = False) -> nn.Module:
    options = {"quantization_config": Mxfp4Config(dequantize=True)} if mxfp4 else {}
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **options)
    return model


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_bits_of_transformers(
    architecture: str, dtypes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice each: the first time it is compared with the converter, the second time only read."""
    on_disk, in_memory = DTYPES[dtypes]
    folder = write_checkpoint(tmp_path / architecture, architecture, dtype=on_disk, sharded=True)
    model = whole_model(folder, in_memory, mxfp4=ARCHITECTURES[architecture].mxfp4)
    weights = LayerWeights(folder, build_skeleton(folder, in_memory), CPU)
    weights.load_outside()
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{weights.path}."):
            assert bits(weights.model.state_dict()[name]) == bits(tensor), name
    for _ in range(2):
        for index, layer in enumerate(weights.layers):
            weights.load_layer(index)
            expected = stored(model.get_submodule(f"{weights.path}.{index}"))
            loaded = stored(layer)
            assert list(loaded) == list(expected)
            for name, tensor in loaded.items():
                assert (tensor.dtype, tensor.stride()) == (expected[name].dtype, expected[name].stride()), name
                assert tensor.data_ptr() % arena.ALIGNMENT == 0
                assert bits(tensor) == bits(expected[name]), name
            if index:
                weights.release_layer(index - 1)
        weights.release_layer(index)
        assert all(tensor.is_meta for layer in weights.layers for tensor in stored(layer).values())
    assert "differs" not in capsys.readouterr().err
    for groups in weights._recipes.groups.values():
        assert all(group.recipe.placed != group.recipe.packed for group in groups)


@pytest.fixture(params=["qwen3_moe", "gpt_oss"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> LayerWeights:
    folder = write_checkpoint(tmp_path / request.param, request.param)
    return LayerWeights(folder, build_skeleton(folder, "auto"), CPU)


def test_a_layer_is_never_overwritten_while_it_is_loaded(weights: LayerWeights) -> None:
    def held(index: int) -> dict[str, bytes]:
        return {name: bits(tensor) for name, tensor in stored(weights.layers[index]).items()}

    with ThreadPoolExecutor(1) as reader:
        weights.load_layer(0)
        for index in range(len(weights.layers) - 1):
            before = held(index)
            reader.submit(weights.load_layer, index + 1).result()
            assert held(index) == before
            assert held(index + 1) != before
            weights.release_layer(index)


def test_two_buffers_for_the_whole_run(weights: LayerWeights) -> None:
    places = []
    for index, layer in enumerate(weights.layers):
        weights.load_layer(index)
        places.append(min(tensor.data_ptr() for tensor in stored(layer).values()))
        if index:
            weights.release_layer(index - 1)
    assert places == [places[0], places[1]] * 2


def test_a_third_layer_is_refused(weights: LayerWeights) -> None:
    weights.load_layer(0)
    weights.load_layer(1)
    with pytest.raises(RuntimeError, match="layer 2 is to be read, but layers 0 and 1 are loaded: release one first"):
        weights.load_layer(2)
    weights.release_layer(0)
    weights.load_layer(2)


def test_a_layer_that_cannot_be_read_leaves_its_buffer(weights: LayerWeights) -> None:
    weights.load_layer(0)
    file = weights._folder / "model.safetensors"
    whole = file.read_bytes()
    for _ in range(2):
        file.write_bytes(whole[:1000])
        with pytest.raises(Exception, match=r"model\.safetensors is truncated: tensor model\.layers\.1\."):
            weights.load_layer(1)
        file.write_bytes(whole)
    weights.load_layer(1)


@pytest.mark.parametrize("architecture", ["olmoe", "glm4_moe", "gpt_oss", "gpt2"])
def test_a_difference_is_found_and_left_to_the_converter(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Placed or unpacked wrongly, one bit in a layer of each kind: found, said, and right in the end."""

    def flipped(views: dict[str, torch.Tensor]) -> None:
        view = views[max(views, key=lambda name: (views[name].numel(), name))]
        view.view(-1).view(torch.uint8)[-2] ^= 1

    place, unpacked = comparison.place, comparison.Comparison.unpacked

    def placed_wrongly(group, tensors, views):  # type: ignore[no-untyped-def]
        place(group, tensors, views)
        flipped({target.name: views[target.name] for target in group.recipe.targets})

    def unpacked_wrongly(self, group, views):  # type: ignore[no-untyped-def]
        flipped({target.name: views[target.name] for target in group.recipe.targets})
        unpacked(self, group, views)

    monkeypatch.setattr(comparison, "place", placed_wrongly)
    monkeypatch.setattr(comparison.Comparison, "unpacked", unpacked_wrongly)
    folder = write_checkpoint(tmp_path / architecture, architecture)
    weights = LayerWeights(folder, build_skeleton(folder, "auto"), CPU)
    model = whole_model(folder, "bfloat16", mxfp4=ARCHITECTURES[architecture].mxfp4)
    for index, layer in enumerate(weights.layers):
        weights.load_layer(index)
        for name, tensor in stored(model.get_submodule(f"{weights.path}.{index}")).items():
            assert bits(stored(layer)[name]) == bits(tensor), name
        weights.release_layer(index)
    said = capsys.readouterr().err
    largest = "c_proj.weight" if architecture == "gpt2" else "mlp.experts.gate_up_proj"
    assert f"{weights.path}.{1 if architecture == 'glm4_moe' else 0}.mlp.{largest.removeprefix('mlp.')}" in said
    assert "differs from transformers' own conversion" in said
    recipes = [group.recipe for groups in weights._recipes.groups.values() for group in groups if group.prefix]
    assert not any(recipe.placed or recipe.packed for recipe in recipes)


@pytest.mark.parametrize("architecture", ["olmoe", "qwen3_next", "gpt_oss_bf16"])
def test_what_is_more_than_placement_is_computed_by_the_converter(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = torch.ops.aten.stack.default if architecture == "olmoe" else torch.ops.aten.detach.default
    monkeypatch.setattr(placement, "RULES", {func: rule for func, rule in placement.RULES.items() if func != missing})
    folder = write_checkpoint(tmp_path / architecture, architecture)
    weights = LayerWeights(folder, build_skeleton(folder, "auto"), CPU)
    model = whole_model(folder, "bfloat16")
    recipes = [group.recipe for group in weights._recipes.groups[0]]
    assert not all(recipe.placed for recipe in recipes)
    for index, layer in enumerate(weights.layers):
        weights.load_layer(index)
        for name, tensor in stored(model.get_submodule(f"{weights.path}.{index}")).items():
            assert bits(stored(layer)[name]) == bits(tensor), name
        weights.release_layer(index)
