"""The streamed engine: crashes that cost a layer, weights that come and go, checkpoints that do not fill a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from capture.checkpoint import safetensors_header
from capture.cli import main
from capture.weights.shards import stored_tensors
from schemas.run import Run
from tests.checkpoints import ARCHITECTURES, write_checkpoint

LENGTH = 24
SEQUENCES = 3


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog, and then it sleeps. " * 40)
    return file


def capture(folder: Path, text: Path, store: Path, engine: str, *flags: str) -> int:
    return main(
        [
            *("--model", str(folder), "--text", str(text), "--store", str(store), "--engine", engine, "-q"),
            *("--sequences", str(SEQUENCES), "--length", str(LENGTH), *flags),
        ]
    )


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = Run(one), Run(other)
    names = sorted(a.group.array_keys())
    assert names == sorted(b.group.array_keys())
    for name in names:
        assert a.read(name).tobytes() == b.read(name).tobytes(), name


def test_a_layer_begins_when_the_one_before_is_committed(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capture.sink import Sink
    from schemas.run_writer import RunWriter

    events: list[tuple[str, int]] = []
    commit, begin = RunWriter.commit, Sink.begin

    def committing(self: RunWriter, layers: range, sequences: list[int]) -> None:
        time.sleep(0.05)
        commit(self, layers, sequences)
        events.append(("committed", layers.start))

    def beginning(self: Sink, *args: Any) -> None:
        events.append(("begins", sum(what == "committed" for what, _ in events)))
        begin(self, *args)

    monkeypatch.setattr(RunWriter, "commit", committing)
    monkeypatch.setattr(Sink, "begin", beginning)
    folder = write_checkpoint(tmp_path / "olmoe", "olmoe")
    assert capture(folder, text, tmp_path / "run.zarr", "streamed") == 0
    layers = Run(tmp_path / "run.zarr").dimensions.layers
    expected = [[*[("begins", layer)] * SEQUENCES, ("committed", layer)] for layer in range(layers - 1)]
    assert events[: (layers - 1) * (SEQUENCES + 1)] == [event for each in expected for event in each]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize(("architecture", "engine"), [("qwen3_moe", "streamed"), ("gemma3n", "lockstep")])
def test_a_crash_costs_one_layer(
    architecture: str, engine: str, layer: int, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capture.weights.layer_weights import LayerWeights

    folder = write_checkpoint(tmp_path / architecture, architecture)
    assert capture(folder, text, tmp_path / "whole.zarr", "resident") == 0

    loaded: list[int] = []
    load_layer = LayerWeights.load_layer

    def power_fails(self: LayerWeights, index: int) -> None:
        loaded.append(index)
        if index == layer and fail:
            raise RuntimeError("power failure")
        load_layer(self, index)

    monkeypatch.setattr(LayerWeights, "load_layer", power_fails)
    fail = True
    with pytest.raises(RuntimeError, match="power failure"):
        capture(folder, text, tmp_path / "broken.zarr", engine)
    assert Run(tmp_path / "broken.zarr").complete_sequences() == []

    fail = False
    loaded.clear()
    assert capture(folder, text, tmp_path / "broken.zarr", engine) == 0
    assert loaded[0] in ({0} if engine == "lockstep" else {layer - 1, layer})  # no file keeps a forward
    assert_same_bits(tmp_path / "whole.zarr", tmp_path / "broken.zarr")


def test_a_store_begun_resident_is_finished_streamed(tmp_path: Path, text: Path) -> None:
    folder = write_checkpoint(tmp_path / "llama", "llama")
    assert capture(folder, text, tmp_path / "whole.zarr", "resident") == 0
    assert capture(folder, text, tmp_path / "half.zarr", "resident") == 0
    log = tmp_path / "half.zarr" / "committed" / "c.0.2"
    log.unlink()
    assert Run(tmp_path / "half.zarr").complete_sequences() == [0, 1]
    assert capture(folder, text, tmp_path / "half.zarr", "streamed") == 0
    assert_same_bits(tmp_path / "whole.zarr", tmp_path / "half.zarr")


def edited(file: Path, edit: str, name: str) -> None:
    """Take tensor ``name`` out of a shard, double it, or cut the file within it."""
    tensors = load_file(file)
    match edit:
        case "missing":
            del tensors[name]
        case "shape":
            tensors[name] = torch.cat([tensors[name], tensors[name]])
        case "truncated":
            tensors = {**{other: tensor for other, tensor in tensors.items() if other != name}, name: tensors[name]}
    save_file(tensors, file, {"format": "pt"})
    if edit == "truncated":
        stored = stored_tensors(file.name, *safetensors_header(file))[name]
        file.write_bytes(file.read_bytes()[: stored.offset + stored.size_bytes - 1])


@pytest.mark.parametrize("engine", ["resident", "streamed", "lockstep"])
@pytest.mark.parametrize("edit", ["missing", "shape", "truncated"])
@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "model.layers.2.mlp.up_proj.weight"),
        ("llama", "model.norm.weight"),
        ("mixtral", "model.layers.3.block_sparse_moe.experts.2.w3.weight"),
        ("gpt_oss", "model.layers.1.mlp.experts.down_proj_scales"),
    ],
)
def test_a_checkpoint_that_does_not_fill_the_model(
    architecture: str,
    name: str,
    edit: str,
    engine: str,
    tmp_path: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Named before anything is loaded or stored, by the tensor and, where there is one, the file."""
    folder = write_checkpoint(tmp_path / architecture, architecture, sharded=True)
    file = next(file for file in sorted(folder.glob("*.safetensors")) if name in safetensors_header(file)[0])
    edited(file, edit, name)
    assert capture(folder, text, tmp_path / "run.zarr", engine) == 2
    said = capsys.readouterr().err
    match edit:
        case "missing":
            assert f"{name} is missing" in said
        case "shape":
            assert f"{name} in {file.name}" in said
        case "truncated":
            assert f"{file.name} is truncated" in said
    assert not (tmp_path / "run.zarr").exists()


def test_weights_are_released_after_their_layer(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from capture.weights.layer_weights import LayerWeights

    folder = write_checkpoint(tmp_path / "qwen3_moe", "qwen3_moe")
    held: list[int] = []
    load_layer = LayerWeights.load_layer

    def counted(self: LayerWeights, index: int) -> None:
        load_layer(self, index)
        held.append(sum(not next(layer.parameters()).is_meta for layer in self.layers))

    monkeypatch.setattr(LayerWeights, "load_layer", counted)
    assert capture(folder, text, tmp_path / "run.zarr", "streamed") == 0
    assert len(held) == ARCHITECTURES["qwen3_moe"].layer_count > 2
    assert max(held) <= 2  # the one that computes, if it has not ended yet, and the one that is read
    assert np.all(Run(tmp_path / "run.zarr").committed())
