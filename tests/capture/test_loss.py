"""Next-token losses against plain cross entropy over all logits at once, whatever a model does to its logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from capture.loss import decoder_of, token_nll
from schemas import Run
from schemas.errors import CaptureError
from tests.capture.captures import POSITIONS
from tests.checkpoints import ARCHITECTURES, VOCABULARY_SIZE

Array = np.ndarray[Any, Any]


def cross_entropy(logits: torch.Tensor, token_id: torch.Tensor) -> Array:
    """``-log softmax(logits)[next token]`` in float64, one position at a time; NaN at position 0."""
    nll = np.full(token_id.shape, np.nan)
    for sequence, ids in enumerate(token_id.tolist()):
        for position, target in enumerate(ids[1:], start=1):
            row = logits[sequence, position - 1].double().numpy()
            nll[sequence, position] = np.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
    return nll


def random_ids(positions: int = POSITIONS, sequences: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, VOCABULARY_SIZE, (sequences, positions), generator=generator)


def losses(model: Any, ids: torch.Tensor, block_positions: int) -> Array:
    with torch.inference_mode():
        return token_nll(model, ids, decoder_of(model)(input_ids=ids, use_cache=False), block_positions).numpy()


def all_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids, use_cache=False).logits
    return logits


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stored_losses(name: str, captured: Callable[..., Run], plain_model: Callable[..., Any]) -> None:
    run = captured(name)
    ids = torch.from_numpy(run.read("token_id")).long()
    logits = torch.cat([all_logits(plain_model(name), row[None]) for row in ids])
    stored = run.read("token_nll")
    assert np.isnan(stored[:, 0]).all()
    # Two bfloat16 roundings of the largest logit apart, as a product of other shape may sum in another order.
    tolerance = 2 * 2.0**-8 * float(logits.abs().max())
    np.testing.assert_allclose(stored, cross_entropy(logits, ids), rtol=0, atol=tolerance)


@pytest.mark.parametrize("block_positions", [1, 7, POSITIONS - 1, POSITIONS])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_blocks_of_any_size_give_the_loss_of_the_whole(
    name: str, block_positions: int, plain_model: Callable[..., Any]
) -> None:
    model, ids = plain_model(name, "float32"), random_ids()
    expected = cross_entropy(all_logits(model, ids), ids)
    np.testing.assert_allclose(losses(model, ids, block_positions), expected, rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(decoder_of(model))


def shaped(model: Any, ids: torch.Tensor) -> None:
    """Check the losses, and that what the model does between head and logits shows in them."""
    expected = cross_entropy(all_logits(model, ids), ids)
    with torch.no_grad():
        raw = model.get_output_embeddings()(decoder_of(model)(ids, use_cache=False).last_hidden_state)
    assert np.nanmax(np.abs(expected - cross_entropy(raw, ids))) > 1e-2
    np.testing.assert_allclose(losses(model, ids, 5), expected, rtol=1e-5, atol=1e-5)


def test_scaled_logits(plain_model: Callable[..., Any]) -> None:
    for name in ("cohere", "cohere2"):
        shaped(plain_model(name, "float32"), random_ids())


def test_soft_capped_logits(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "gemma3n"
    shutil.copytree(checkpoint("gemma3n"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 0.5}))
    shaped(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), random_ids())

    sizes = {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8}
    torch.manual_seed(0)
    gemma2 = AutoConfig.for_model("gemma2", **sizes, **heads, final_logit_softcapping=0.5, initializer_range=0.5)
    shaped(AutoModelForCausalLM.from_config(gemma2).eval(), random_ids())


@pytest.mark.parametrize("positions", [1, 2])
def test_the_shortest_sequences(positions: int, plain_model: Callable[..., Any]) -> None:
    model, ids = plain_model("llama", "float32"), random_ids(positions)
    expected = cross_entropy(all_logits(model, ids), ids)
    np.testing.assert_allclose(losses(model, ids, 3), expected, rtol=1e-5, atol=1e-5)


class Repeating(nn.Module):
    """A language model whose forward calls its decoder as many times as told."""

    def __init__(self, model: Any, times: int) -> None:
        super().__init__()
        self.model, self.times = model, times

    def get_decoder(self) -> Any:
        return self.model.get_decoder()

    def forward(self, **inputs: Any) -> Any:
        for _ in range(self.times):
            output = self.model(**inputs)
        return output if self.times else SimpleNamespace(logits=torch.zeros(1, 1, VOCABULARY_SIZE))


@pytest.mark.parametrize("times", [0, 2])
def test_a_model_that_does_not_call_its_decoder_once_is_refused(times: int, plain_model: Callable[..., Any]) -> None:
    model = Repeating(plain_model("llama", "float32"), times)
    with pytest.raises(CaptureError, match=rf"Repeating: its forward called the decoder {times} times"):
        losses(model, random_ids(), 4)
    assert "forward" not in vars(decoder_of(model))


def test_logits_of_another_length_are_refused(plain_model: Callable[..., Any]) -> None:
    class LastOnly(Repeating):
        def forward(self, **inputs: Any) -> Any:
            return SimpleNamespace(logits=self.model(**inputs).logits[:, -1:])

    with pytest.raises(CaptureError, match=r"gave logits of shape \(2, 1, 320\) for hidden states of shape \(2, 4, 32"):
        losses(LastOnly(plain_model("llama", "float32"), 1), random_ids(), 4)


def test_a_model_without_a_decoder_of_its_own_is_refused() -> None:
    class Bare(nn.Module):
        def get_decoder(self) -> Any:
            return self

        base_model = property(get_decoder)

    with pytest.raises(CaptureError, match="Bare names no decoder of its own"):
        decoder_of(Bare())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_decoder_holds_the_layers(name: str, plain_model: Callable[..., Any]) -> None:
    model = plain_model(name)
    layers = model.get_submodule(ARCHITECTURES[name].layers)
    assert any(module is layers for module in decoder_of(model).modules())


def test_a_decoder_under_another_name_than_its_base_is_found() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("llama4_text", vocab_size=320, intermediate_size=48, num_local_experts=2, **sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.base_model is model  # Llama 4 names its base language_model and keeps it as model
    assert decoder_of(model) is model.model
