"""One layer's weights, read in place: transformers' own bits, in two buffers that are used in turn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

from capture.model_facts import build_skeleton
from capture.weights import arena, comparison, placement
from capture.weights.converter import Converter
from capture.weights.layer_weights import LayerWeights
from capture.weights.recipes import Recipes
from capture.weights.shards import Shards
from schemas.errors import InputError
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
                assert tensor.data_ptr() % 64 == 0  # as torch's own on a CPU
                assert tensor.storage_offset() * tensor.element_size() % arena.ALIGNMENT == 0
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


def test_an_accelerator_reads_into_memory_of_the_host_and_copies(
    weights: LayerWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path with the host's memory in both roles: what is staged for the next layer leaves this one alone."""
    copied: list[int] = []

    def copy(target: torch.Tensor, source: torch.Tensor, after: object) -> None:
        assert target.data_ptr() != source.data_ptr()
        copied.append(target.data_ptr())
        target.copy_(source)

    monkeypatch.setattr(arena, "staging_buffer", lambda size_bytes, device: torch.empty(size_bytes, dtype=torch.uint8))
    monkeypatch.setattr(arena, "copied_aside", copy)
    model = whole_model(weights._folder, "bfloat16", mxfp4=weights._converter.quantisation == "mxfp4")
    for index in range(len(weights.layers)):
        weights.load_layer(index)
        for loaded in (index - 1, index) if index else (index,):
            for name, tensor in stored(model.get_submodule(f"{weights.path}.{loaded}")).items():
                assert bits(stored(weights.layers[loaded])[name]) == bits(tensor), name
        if index:
            weights.release_layer(index - 1)
    assert copied == [copied[0], copied[1]] * 2


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


def quantised_to_float8(folder: Path, block: int = 16) -> None:
    """Give the projections of a checkpoint one scale for each square block, as DeepSeek and Qwen publish theirs."""
    file, tensors = folder / "model.safetensors", {}
    for name, tensor in load_file(file).items():
        tensors[name] = tensor
        if re.search(r"_proj\.weight$", name) and all(size % block == 0 for size in tensor.shape):
            rows, columns = tensor.shape
            blocks = tensor.float().view(rows // block, block, columns // block, block)
            scale = blocks.abs().amax((1, 3)) / 448
            tensors[name] = (blocks / scale[:, None, :, None]).view(rows, columns).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [block] * 2, "fmt": "e4m3"}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe", "glm4_moe"])
def test_float8_blocks_are_dequantised_as_transformers_does(architecture: str, tmp_path: Path) -> None:
    """By its own converter; and against its plain formula, value times scale, for one matrix."""
    folder = write_checkpoint(tmp_path / architecture, architecture)
    quantised_to_float8(folder)
    options = {"quantization_config": FineGrainedFP8Config(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options)
    skeleton = build_skeleton(folder, "auto")
    assert skeleton.facts.quantisation == "fp8"
    weights = LayerWeights(folder, skeleton, CPU)
    for index, layer in enumerate(weights.layers):
        weights.load_layer(index)
        for name, tensor in stored(model.get_submodule(f"{weights.path}.{index}")).items():
            assert bits(stored(layer)[name]) == bits(tensor), name
        weights.release_layer(index)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"
    scale = tensors[f"{name}_scale_inv"].repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert model.get_parameter(name).equal((tensors[name].float() * scale).bfloat16())


def test_float8_blocks_that_end_beyond_a_weight_are_refused(tmp_path: Path) -> None:
    """transformers would take two blocks of 20 in 32 rows for two of 16."""
    folder = write_checkpoint(tmp_path / "llama", "llama")
    quantised_to_float8(folder)
    LayerWeights(folder, build_skeleton(folder, "auto"), CPU)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = [20, 16]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"\w_proj\.weight in .*: float8 blocks of \[20, 16\] do not divide"):
        LayerWeights(folder, build_skeleton(folder, "auto"), CPU)


@pytest.mark.parametrize("name", ["olmoe", "qwen3_moe", "mixtral", "qwen3_next", "glm4_moe"])
def test_experts_are_compared_one_by_one(
    name: str, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once takes three times their memory: with Mixtral's, more than two layers may take."""
    monkeypatch.setattr(comparison, "PART_BYTES", 1)
    skeleton = build_skeleton(checkpoint(name), "auto")
    converter, shards = Converter(skeleton), Shards.in_folder(checkpoint(name))
    experts = [
        group
        for index, groups in Recipes(converter, shards).groups.items()
        for group in groups
        if index is not None and any(".experts." in tensor for tensor in group.names)
    ]
    assert experts
    for group in experts:
        parts = [chosen for chosen, _ in comparison.Comparison(converter, shards)._parts(group)]
        assert len(parts) == skeleton.facts.experts
        assert sorted(position for part in parts for position in part) == list(range(len(group.names)))
