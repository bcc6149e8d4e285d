"""The three engines give the same bits: on every architecture, window and batch shape that is captured here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from capture.coupling import coupling_of
from capture.model_facts import build_skeleton
from schemas.run import Run
from tests.capture.captures import POSITIONS, SEQUENCES, capture
from tests.checkpoints import ARCHITECTURES, write_checkpoint

BATCH_SIZE = 2
COUPLED = {
    "gemma3n": "layers of Gemma3nTextModel leave something in shared_kv_states for later ones",
    "gemma4": "Gemma4TextModel does more between its layers than hand on hidden states",
    "glm_moe_dsa": "GlmMoeDsaModel takes more from its layers than hidden states",
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function from an architecture's name to a checkpoint in its original format, cut in the middle of layers."""
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            made[name] = write_checkpoint(tmp_path_factory.mktemp("sharded") / name, name, sharded=True)
        return made[name]

    return write


@pytest.mark.parametrize("engine", ["streamed", "lockstep"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_bits_as_resident(
    name: str,
    engine: str,
    sharded: Callable[[str], Path],
    captured: Callable[..., Run],
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--engine", engine, "--sequences", SEQUENCES, "--length", POSITIONS, "--batch-size", BATCH_SIZE)
    status = capture(sharded(name), tmp_path / "run.zarr", text, *flags)
    if engine == "streamed" and name in COUPLED:
        assert status == 2
        error = capsys.readouterr().err
        assert f"--engine streamed: {COUPLED[name]}; use --engine lockstep" in error
        return
    assert status == 0
    run, resident = Run(tmp_path / "run.zarr"), captured(name, batch_size=BATCH_SIZE)
    assert (run.info.software.engine, resident.info.software.engine) == (engine, "resident")
    names = sorted(resident.group.array_keys())
    assert names == sorted(run.group.array_keys())
    assert [array for array in names if run.read(array).tobytes() != resident.read(array).tobytes()] == []
    assert not (tmp_path / "run.zarr" / ".resume").exists()


@pytest.mark.parametrize("engine", ["resident", "streamed"])
def test_the_weights_are_those_that_transformers_takes(
    engine: str, captured: Callable[..., Run], checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    """Not those of an index beside the whole file, nor of other files, though their tensors have the right names."""
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    other = {name: 2 * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    for name in ("model-00001-of-00001", "zzz"):
        save_file(other, folder / f"{name}.safetensors", {"format": "pt"})
    index = {"weight_map": dict.fromkeys(other, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    flags = ("--engine", engine, "--sequences", SEQUENCES, "--length", POSITIONS, "--batch-size", BATCH_SIZE)
    assert capture(folder, tmp_path / "run.zarr", text, *flags) == 0
    run, alone = Run(tmp_path / "run.zarr"), captured("llama", batch_size=BATCH_SIZE)
    for array in alone.group.array_keys():
        assert run.read(array).tobytes() == alone.read(array).tobytes(), array


def test_a_model_that_names_no_class_of_layers(checkpoint: Callable[[str], Path], text: Path, tmp_path: Path) -> None:
    """GPT-1: its layers are the one list as long as its configuration says, and they return lists."""
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    sizes = {"vocab_size": 320, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": POSITIONS}
    config = AutoConfig.for_model("openai-gpt", **sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    assert_engines_agree(folder, text, tmp_path)
    assert Run(tmp_path / "streamed.zarr").info.sites["ln_mlp"].modules == [f"transformer.h.{i}.mlp" for i in range(3)]


def assert_engines_agree(folder: Path, text: Path, stores: Path) -> None:
    """Capture a sequence of ``folder`` with each engine, into ``stores``, to the same bits."""
    runs = []
    for engine in ("resident", "streamed", "lockstep"):
        flags = ("--engine", engine, "--sequences", 1, "--length", POSITIONS)
        assert capture(folder, stores / f"{engine}.zarr", text, *flags) == 0
        runs.append(Run(stores / f"{engine}.zarr"))
    for array in runs[0].group.array_keys():
        assert len({run.read(array).tobytes() for run in runs}) == 1, array


@pytest.mark.parametrize("trained_positions", [POSITIONS - 8, POSITIONS + 8])
def test_frequencies_that_depend_on_the_length(
    trained_positions: int, checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    """Longrope (Phi-3 and later) writes into its buffer of frequencies amid a forward: others for long sequences."""
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    factors = {"short_factor": [1.0, 1.0, 1.5, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0], "factor": 8.0}
    config["rope_parameters"] = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    config["rope_parameters"]["original_max_position_embeddings"] = trained_positions
    (folder / "config.json").write_text(json.dumps(config))
    assert_engines_agree(folder, text, tmp_path)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_ties_layers_together_is_found_without_weights(name: str, checkpoint: Callable[[str], Path]) -> None:
    skeleton = build_skeleton(checkpoint(name), "auto")
    assert coupling_of(skeleton.model, POSITIONS).reason == COUPLED.get(name)
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())


def test_what_layers_are_given_is_measured(checkpoint: Callable[[str], Path]) -> None:
    def argument_bytes(name: str, length: int) -> int:
        return coupling_of(build_skeleton(checkpoint(name), "auto").model, length).argument_bytes

    hidden, rotary, position = 32 * 2, 2 * 8 * 2, 8  # a token: bfloat16 hidden states, cosines and sines, its number
    assert argument_bytes("llama", 100) == 100 * (hidden + rotary + position)
    assert argument_bytes("llama", 100_000) == 100_000 * (hidden + rotary + position)
    # four streams, 8 features of each of 4 layers, two kinds of rotary embeddings, one mask of a window of 8
    streams = 4 * hidden + 4 * 8 * 2 + 2 * rotary + position
    assert argument_bytes("gemma3n", 100) == 100 * streams + 100**2
    assert argument_bytes("gemma3n", 50_000) == pytest.approx(50_000 * streams + 50_000**2, rel=1e-4)
