"""What is stored is what a plain forward hands to attention and MLP, bit for bit, on every architecture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from schemas import Run
from tests.capture.captures import POSITIONS, SEQUENCES, capture
from tests.checkpoints import ARCHITECTURES, SITES, VOCABULARY_SIZE, write_tokenizer

PATTERNS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}

WINDOW = 8
SLIDING = [name for name, about in ARCHITECTURES.items() if about.config.get("sliding_window") == WINDOW]


def patterns(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.contiguous().view(PATTERNS[tensor.dtype]).numpy()


def assert_same_bits(run: Run, name: str, batch_size: int, plain_inputs: Callable[..., Any]) -> None:
    architecture = ARCHITECTURES[name]
    sites = SITES if architecture.mlp is not None else SITES[:1]
    assert list(run.info.sites) == list(sites)
    for start in range(0, SEQUENCES, batch_size):
        batch = range(start, min(start + batch_size, SEQUENCES))
        inputs = plain_inputs(run, name, batch)
        assert len(inputs) == len(sites) * architecture.layer_count
        for (site, layer), tensor in inputs.items():
            stored = run.read(run.info.site_array(site), (layer, slice(batch.start, batch.stop)))
            expected = patterns(tensor)
            assert stored.shape == (len(batch), POSITIONS, tensor.shape[-1])
            np.testing.assert_array_equal(stored.view(expected.dtype), expected, err_msg=f"{site} of layer {layer}")


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_slices_equal_a_plain_forward(
    name: str, batch_size: int, captured: Callable[..., Run], plain_inputs: Callable[..., Any]
) -> None:
    run = captured(name, batch_size=batch_size)
    assert run.committed().all()
    assert_same_bits(run, name, batch_size, plain_inputs)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", ["olmoe", "gpt_oss", "llama", "opt", "cohere"])
def test_other_dtypes_are_stored_in_their_own_bits(
    name: str, dtype: str, captured: Callable[..., Run], plain_inputs: Callable[..., Any]
) -> None:
    run = captured(name, dtype=dtype)
    assert run.info.bits == run.info.model.stored_dtype == run.info.model.compute_dtype == dtype
    assert run.info.model.native_dtype == "bfloat16"
    assert run.array("ln_attn").dtype == (np.float32 if dtype == "float32" else np.uint16)
    assert_same_bits(run, name, 1, plain_inputs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_norm_that_feeds_both_is_stored_once(name: str, captured: Callable[..., Run]) -> None:
    run = captured(name)
    architecture = ARCHITECTURES[name]
    both = architecture.one_norm_for_both
    assert both == (name in {"cohere", "cohere2", "phi", "falcon"})
    assert ("ln_mlp" in run) == (architecture.mlp is not None and not both)
    if both:
        assert run.info.sites["ln_mlp"].alias == "ln_attn"
        assert run.info.site_array("ln_mlp") == "ln_attn"
        assert run.info.sites["ln_mlp"].modules != run.info.sites["ln_attn"].modules


def test_gpt_oss_is_read_from_mxfp4(checkpoint: Callable[[str], Path], captured: Callable[..., Run]) -> None:
    config = json.loads((checkpoint("gpt_oss") / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "mxfp4"
    packed, plain = captured("gpt_oss"), captured("gpt_oss_bf16")
    assert (packed.info.model.quantisation, plain.info.model.quantisation) == ("mxfp4", None)
    assert packed.info.model.total_parameters == plain.info.model.total_parameters
    np.testing.assert_array_equal(packed.read("ln_attn", (0,)), plain.read("ln_attn", (0,)))
    assert (packed.read("ln_attn", (1,)) != plain.read("ln_attn", (1,))).any()  # rounded experts came between


@pytest.mark.parametrize("name", SLIDING)
def test_a_sliding_window_is_in_effect(
    name: str, checkpoint: Callable[[str], Path], text: Path, captured: Callable[..., Run], tmp_path: Path
) -> None:
    folder = tmp_path / name
    shutil.copytree(checkpoint(name), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 4 * POSITIONS}))
    options = ("--sequences", SEQUENCES, "--length", POSITIONS)
    assert capture(folder, tmp_path / "wide.zarr", text, *options) == 0
    wide, narrow = Run(tmp_path / "wide.zarr").read("ln_attn"), captured(name).read("ln_attn")
    np.testing.assert_array_equal(wide[0], narrow[0])
    np.testing.assert_array_equal(wide[1][:, :WINDOW], narrow[1][:, :WINDOW])
    assert (wide[1][:, WINDOW:] != narrow[1][:, WINDOW:]).any(axis=(1, 2)).all()


def test_several_architectures_have_sliding_windows() -> None:
    assert set(SLIDING) == {"gpt_oss", "gpt_oss_bf16", "gemma3", "gemma3n", "gemma4", "olmo3", "cohere2"}


@pytest.mark.parametrize("name", ["opt", "gpt2", "mamba"])
def test_one_token_is_a_sequence(name: str, checkpoint: Callable[[str], Path], text: Path, tmp_path: Path) -> None:
    assert capture(checkpoint(name), tmp_path / "run.zarr", text, "--sequences", 2, "--length", 1) == 0
    run = Run(tmp_path / "run.zarr")
    assert run.read("ln_attn").shape == (run.info.model.layers, 2, 1, 32)
    np.testing.assert_array_equal(run.read("ln_attn_layer_peak"), run.read("ln_attn")[:, :, 0] & 0x7FFF)
    assert np.isnan(run.read("token_nll")).all()


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320, "eos_token_id": 0}
SPECIAL = dict.fromkeys(("bos_token_id", "cls_token_id", "sep_token_id", "pad_token_id"), 0)


@pytest.mark.parametrize(
    ("model_type", "sizes", "layers", "mixer", "mlp"),
    [
        # Its configuration says is_decoder = false, as an encoder's does.
        ("gpt_neox_japanese", SMALL, "gpt_neox_japanese.layers", "attention", "mlp"),
        # It names no layer class, and hands its attention one tensor three times.
        (
            "ctrl",
            {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, **SMALL},
            "transformer.h",
            "multi_head_attention",
            "ffn",
        ),
        # Its output head is what it calls its decoder.
        ("modernbert-decoder", {"intermediate_size": 48, **SPECIAL, **SMALL}, "model.layers", "attn", "mlp"),
        # Its layers hand on what their MLPs return.
        ("bloom", {"n_layer": 2, "n_head": 4, **SMALL}, "transformer.h", "self_attention", "mlp"),
    ],
)
def test_models_that_differ_from_the_usual(
    model_type: str, sizes: dict[str, int], layers: str, mixer: str, mlp: str, text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes), dtype=torch.bfloat16).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder, VOCABULARY_SIZE, adds_bos=False)
    runs = {}
    for engine in ("resident", "streamed"):
        assert capture(folder, tmp_path / engine, text, "--sequences", 2, "--length", 16, "--engine", engine) == 0
        runs[engine] = Run(tmp_path / engine)
    entered: dict[tuple[str, int], np.ndarray[Any, Any]] = {}

    def keep(site: str, layer: int) -> Any:
        def hook(module: Any, arguments: Any, keywords: Any) -> None:
            entered[site, layer] = patterns((*arguments, *keywords.values())[0][0])

        return hook

    for layer, block in enumerate(model.get_submodule(layers)):
        for site, child in (("ln_attn", mixer), ("ln_mlp", mlp)):
            block.get_submodule(child).register_forward_pre_hook(keep(site, layer), with_kwargs=True)
    ids = torch.from_numpy(runs["resident"].read("token_id")[:1]).long()
    with torch.inference_mode():
        logits = model(ids).logits
        expected = dict(entered)
        ids[0, -1] += 1
        assert model(ids).logits[:, :-1].equal(logits[:, :-1])  # no token sees those that follow
    assert len(expected) == 4
    for run in runs.values():
        for (site, layer), values in expected.items():
            np.testing.assert_array_equal(run.read(site, (layer, 0)).view(values.dtype), values)


@pytest.mark.parametrize("site", SITES)
def test_one_site_alone_holds_the_same_bits(
    site: str, checkpoint: Callable[[str], Path], text: Path, captured: Callable[..., Run], tmp_path: Path
) -> None:
    options = ("--sequences", SEQUENCES, "--length", POSITIONS, "--sites", site)
    for name in ("qwen3", "cohere"):
        assert capture(checkpoint(name), tmp_path / f"{name}.zarr", text, *options) == 0
        run = Run(tmp_path / f"{name}.zarr")
        assert list(run.info.sites) == [site]
        assert run.info.stored_sites == [site]
        whole = captured(name)
        np.testing.assert_array_equal(run.read(site), whole.read(whole.info.site_array(site)))
