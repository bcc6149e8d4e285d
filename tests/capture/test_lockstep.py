"""Forwards parked at their layers: what fails in one is told as it was, and none stays behind."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from greenlet import greenlet
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

from capture import cli
from capture.weights.layer_weights import LayerWeights
from schemas.run import Run
from tests.capture.captures import POSITIONS, SEQUENCES, capture
from tests.checkpoints import VOCABULARY_SIZE, write_tokenizer

FLAGS = ("--engine", "lockstep", "--sequences", SEQUENCES, "--length", POSITIONS)


def parked() -> int:
    """Greenlets that began and have not ended, but for the one that every thread is."""
    gc.collect()
    every = [thing for thing in gc.get_objects() if issubclass(type(thing), greenlet)]
    return sum(bool(each) and each.parent is not None for each in every)


def failing_mlp(call: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the ``call``-th MLP of a capture raise ``error``; the greenlets that were parked then come in a list."""
    calls, there = 0, []
    forward = Gemma3nTextMLP.forward

    def fail(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            there.append(parked())
            raise error
        return forward(self, *args)

    monkeypatch.setattr(Gemma3nTextMLP, "forward", fail)
    return there


@pytest.mark.parametrize("call", [1, 5, 12])  # the first layer of the first batch, amid, the last of the last
def test_an_error_in_a_forward_keeps_its_traceback_and_unwinds_the_others(
    call: int, checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = failing_mlp(call, ZeroDivisionError("in a layer"), monkeypatch)
    with pytest.raises(ZeroDivisionError, match="in a layer") as raised:
        capture(checkpoint("gemma3n"), tmp_path / "run.zarr", text, *FLAGS)
    frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert frames[-1] == "fail"
    assert {"advance", "_call_impl"} <= set(frames)  # from the engine's loop down to the module that failed
    assert there == [{1: SEQUENCES, 5: SEQUENCES, 12: 1}[call]]
    del raised
    assert parked() == 0
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    complete = Run(tmp_path / "run.zarr").complete_sequences()
    assert set(complete) <= ({0, 1} if call == 12 else set())


def test_ctrl_c_in_a_parked_forward_ends_as_everywhere(
    checkpoint: Callable[[str], Path],
    captured: Callable[..., Run],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing_mlp(7, KeyboardInterrupt(), monkeypatch)
    assert capture(checkpoint("gemma3n"), tmp_path / "run.zarr", text, *FLAGS) == 130
    assert "interrupted; what is committed is safe, the same command continues" in capsys.readouterr().err
    assert parked() == 0
    monkeypatch.undo()
    assert capture(checkpoint("gemma3n"), tmp_path / "run.zarr", text, *FLAGS) == 0
    resumed, whole = Run(tmp_path / "run.zarr"), captured("gemma3n")
    for name in whole.group.array_keys():
        assert resumed.read(name).tobytes() == whole.read(name).tobytes(), name


def test_a_model_that_changes_weights_before_they_are_read_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RWKV divides the weights of later layers by powers of two when its first forward begins."""
    sizes = {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "num_hidden_layers": 7, "attention_hidden_size": 32}
    config = AutoConfig.for_model("rwkv", **sizes, intermediate_size=48, context_length=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "rwkv")
    write_tokenizer(tmp_path / "rwkv", VOCABULARY_SIZE)
    assert capture(tmp_path / "rwkv", tmp_path / "run.zarr", text, *FLAGS) == 1
    assert "RwkvModel changes the weights of its layers before they run" in capsys.readouterr().err
    assert not Run(tmp_path / "run.zarr").committed().any()


def test_one_layer_in_memory_and_the_next(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    load_layer = LayerWeights.load_layer

    def counted(self: LayerWeights, index: int) -> None:
        load_layer(self, index)
        held.append(sum(not next(layer.parameters()).is_meta for layer in self.layers))

    monkeypatch.setattr(LayerWeights, "load_layer", counted)
    assert capture(checkpoint("gemma3n"), tmp_path / "run.zarr", text, *FLAGS) == 0
    assert len(held) == 4  # each layer is read once
    assert max(held) <= 2


def test_auto_takes_lockstep_where_layers_are_tied_and_says_why(
    checkpoint: Callable[[str], Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("capture.preparation.available_memory_bytes", lambda device: 10**6)
    command = ["--model", str(checkpoint("gemma3n")), "--text", str(text), "--store", str(tmp_path / "run.zarr")]
    assert cli.main([*command, "--device", "cpu", "--length", "16", "--dry-run"]) == 1
    output = capsys.readouterr()
    (row,) = [line for line in output.out.splitlines() if line.startswith("engine")]
    assert "lockstep: the whole model needs" in row
    assert "1 MB is available, and layers of Gemma3nTextModel leave something in shared_kv_states" in row
    assert "the lockstep engine needs about" in output.err
