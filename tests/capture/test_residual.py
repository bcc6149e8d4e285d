"""The residual stream as a site: what enters each layer, bit for bit, whichever engine runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyze.cli import main as analyze
from schemas import Run, open_run, recover_residual
from tests.capture.captures import POSITIONS, SEQUENCES, capture
from tests.checkpoints import ARCHITECTURES

FLAGS = ("--sequences", SEQUENCES, "--length", POSITIONS)
RESIDUAL = ("--sites", "ln_attn,ln_mlp,residual")


def layer_inputs(model: Any, name: str, token_id: np.ndarray[Any, Any]) -> list[torch.Tensor]:
    """What enters each layer in plain forwards of one sequence each: (sequence, position, feature) by layer."""
    layers = model.get_submodule(ARCHITECTURES[name].layers)
    seen: list[list[torch.Tensor]] = [[] for _ in layers]

    def hook(layer: int) -> Callable[..., None]:
        return lambda module, args, kwargs: seen[layer].append(kwargs.get("hidden_states", args[0] if args else None))

    handles = [each.register_forward_pre_hook(hook(n), with_kwargs=True) for n, each in enumerate(layers)]
    with torch.no_grad():
        for ids in torch.from_numpy(token_id).long():
            model(ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return [torch.cat(tensors) for tensors in seen]


@pytest.mark.parametrize("engine", ["resident", "streamed", "lockstep"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo2", "qwen3_next", "falcon_h1", "cohere", "opt_350m"])
def test_the_residual_is_what_a_plain_forward_gives_the_layers(
    name: str,
    engine: str,
    checkpoint: Callable[[str], Path],
    plain_model: Callable[..., Any],
    text: Path,
    tmp_path: Path,
) -> None:
    store = tmp_path / "run.zarr"
    assert capture(checkpoint(name), store, text, *FLAGS, *RESIDUAL, "--engine", engine) == 0
    run = Run(store)
    assert list(run.info.sites) == ["ln_attn", "ln_mlp", "residual"]
    array = run.info.site_array("residual")
    assert array == ("ln_attn" if name in ("olmo2", "opt_350m") else "residual")
    largest = np.zeros((SEQUENCES, POSITIONS, run.dimensions.features), np.float32)
    dataset = open_run(store)
    for layer, tensor in enumerate(layer_inputs(plain_model(name), name, run.read("token_id"))):
        np.testing.assert_array_equal(run.read(array, (layer,)).view(np.int16), tensor.view(torch.int16).numpy())
        magnitude = tensor.float().abs().numpy()
        np.testing.assert_array_equal(dataset.residual_layer_peak[layer], magnitude.max(axis=1))
        np.maximum(largest, magnitude, out=largest)
    np.testing.assert_array_equal(dataset.residual_position_peak, largest)


def test_the_recovered_residual_is_the_stored_one(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    store = tmp_path / "run.zarr"
    assert capture(checkpoint("glm4_moe"), store, text, *FLAGS, *RESIDUAL) == 0
    run, dataset = Run(store), open_run(store)
    for layer in range(run.dimensions.layers):
        for sequence in range(SEQUENCES):
            recovered = recover_residual(run, "ln_attn", layer, sequence)
            np.testing.assert_allclose(recovered, dataset.residual[layer, sequence], rtol=2**-7 * 1.001, atol=0)


def test_the_residual_alone(
    checkpoint: Callable[[str], Path], captured: Callable[..., Run], text: Path, tmp_path: Path
) -> None:
    store = tmp_path / "run.zarr"
    assert capture(checkpoint("olmo2"), store, text, *FLAGS, "--sites", "residual") == 0
    run = Run(store)
    assert run.info.stored_sites == ["residual"]  # nobody's alias where it is alone
    np.testing.assert_array_equal(run.read("residual"), captured("olmo2").read("ln_attn"))


@pytest.mark.parametrize("name", ["gemma3n", "mamba"])
def test_a_residual_that_cannot_be_stored_is_refused_before_anything_is_made(
    name: str, checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = "ln_attn,residual"
    assert capture(checkpoint(name), tmp_path / "run.zarr", text, *FLAGS, "--sites", sites) == 2
    assert "--sites residual: what enters" in capsys.readouterr().err
    assert not (tmp_path / "run.zarr").exists()


def test_mambas_residual_is_float32_and_stored_as_such(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    store = tmp_path / "run.zarr"
    assert capture(checkpoint("mamba"), store, text, *FLAGS, "--sites", "ln_attn,residual", "--dtype", "float32") == 0
    assert Run(store).info.stored_sites == ["ln_attn", "residual"]


@pytest.mark.parametrize("definition", ["moe-table", "llm-int8", "llm-int8-block", "majority"])
@pytest.mark.parametrize("engine", ["peaks", "slices"])
def test_a_stored_residual_changes_no_number(
    definition: str,
    engine: str,
    checkpoint: Callable[[str], Path],
    captured: Callable[..., Run],
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, plain = tmp_path / "run.zarr", captured("llama").path
    assert capture(checkpoint("llama"), store, text, *FLAGS, *RESIDUAL) == 0
    capsys.readouterr()

    def answer(path: object, *flags: str) -> str:
        words = ("--store", str(path), "--magnitude", "1,1.5,2", "--definition", definition, "--engine", engine)
        assert analyze([*words, *flags]) == 0
        return capsys.readouterr().out

    def numbers(path: object, *flags: str) -> Any:
        document = json.loads(answer(path, "--format", "json", *flags))
        return json.loads(json.dumps(document).replace(str(path), "STORE"))

    assert numbers(store) == numbers(plain)
    assert numbers(store, "--sites", "ln_attn,residual") != numbers(plain)
    note = "llama: residual, stored too, is not among these cells; --sites residual looks at it."
    with_residual = answer(store)
    assert note in with_residual.replace("\n  ", " ")
    assert "residual" not in answer(plain)
    assert "residual" not in answer(store, "--sites", "ln_attn")
