"""Expert ids, weights and peaks are those of a plain forward; what is unseen is no data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from capture.experts import find_routing
from schemas import Run
from schemas.layout import NO_EXPERT
from tests.capture.captures import POSITIONS, SEQUENCES
from tests.capture.published_configurations import PUBLISHED
from tests.checkpoints import ARCHITECTURES

ROUTERS = {
    # what a layer's router is called; what the weights of a token sum to; layers without experts
    "olmoe": ("gate", None, ()),
    "gpt_oss": ("router", 1.0, ()),
    "gpt_oss_bf16": ("router", 1.0, ()),
    "qwen3_moe": ("gate", None, (1,)),
    "mixtral": ("gate", 1.0, ()),
    "qwen3_next": ("gate", 1.0, ()),
    "glm4_moe": ("gate", 1.0, (0,)),
    "glm_moe_dsa": ("gate", 2.5, (0,)),
}
RANKS = 2
ROUNDING = {"bfloat16": 2.0**-7, "float32": 2.0**-22}
ARRAYS = ("expert_id", "expert_weight", "expert_peak")


def one_expert(experts: Any, expert: int, tokens: torch.Tensor) -> torch.Tensor:
    """What one expert makes of tokens, in the dtype of both: written out here, bias and GPT-OSS's gate included."""
    up, down = experts.gate_up_proj[expert].to(tokens.dtype), experts.down_proj[expert].to(tokens.dtype)
    if hasattr(experts, "down_proj_bias"):
        both = tokens @ up + experts.gate_up_proj_bias[expert].to(tokens.dtype)
        gate, linear = both[:, ::2].clamp(max=7.0), both[:, 1::2].clamp(-7.0, 7.0)
        return ((linear + 1) * (gate * torch.sigmoid(gate * 1.702))) @ down + experts.down_proj_bias[expert].to(
            tokens.dtype
        )
    gate, linear = functional.linear(tokens, up).chunk(2, dim=-1)
    return functional.linear(functional.silu(gate) * linear, down)


def shared_expert(block: Any, tokens: torch.Tensor) -> torch.Tensor | float:
    if hasattr(block, "shared_experts"):
        shared: torch.Tensor = block.shared_experts(tokens)
        return shared
    if hasattr(block, "shared_expert"):
        gated: torch.Tensor = torch.sigmoid(block.shared_expert_gate(tokens)) * block.shared_expert(tokens)
        return gated
    return 0.0


def plain_routing(model: Any, name: str, ids: torch.Tensor) -> dict[int, tuple[Any, torch.Tensor, Any, torch.Tensor]]:
    """Layer -> (its block, the block's input, its router's result, the block's output) in a plain forward."""
    router = ROUTERS[name][0]
    inputs, results, outputs = {}, {}, {}
    blocks = {
        layer: block.mlp
        for layer, block in enumerate(model.get_submodule(ARCHITECTURES[name].layers))
        if layer not in ROUTERS[name][2]
    }
    with ExitStack() as stack, torch.inference_mode():
        for layer, block in blocks.items():
            hooks = [
                block.register_forward_pre_hook(lambda m, a, layer=layer: inputs.__setitem__(layer, a[0])),
                getattr(block, router).register_forward_hook(lambda m, a, r, i=layer: results.__setitem__(i, r)),
                block.register_forward_hook(lambda m, a, r, i=layer: outputs.__setitem__(i, r)),
            ]
            for hook in hooks:
                stack.callback(hook.remove)
        model(ids, use_cache=False)
    first = {layer: held[0] if isinstance(held, tuple) else held for layer, held in outputs.items()}
    return {layer: (blocks[layer], inputs[layer], results[layer], first[layer]) for layer in blocks}


def sorted_by_weight(weights: np.ndarray[Any, Any], ids: np.ndarray[Any, Any]) -> tuple[list[Any], list[Any]]:
    """Each token's ranks by descending weight, equal ones as they were: Python's own sort is stable."""
    order = [sorted(range(len(row)), key=lambda rank, row=row: -row[rank]) for row in weights.tolist()]
    return (
        [[float(row[rank]) for rank in ranks] for row, ranks in zip(weights, order, strict=True)],
        [[int(row[rank]) for rank in ranks] for row, ranks in zip(ids, order, strict=True)],
    )


def batches_of(size: int) -> list[range]:
    return [range(start, min(start + size, SEQUENCES)) for start in range(0, SEQUENCES, size)]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ROUTERS)
def test_ids_weights_and_peaks_are_those_of_a_plain_forward(
    name: str, dtype: str, batch_size: int, captured: Callable[..., Run], plain_model: Callable[..., Any]
) -> None:
    run, model = captured(name, dtype, batch_size), plain_model(name, dtype)
    assert run.read("expert_id").shape == (ARCHITECTURES[name].layer_count, SEQUENCES, POSITIONS, RANKS)
    for batch in batches_of(batch_size):
        where = slice(batch.start, batch.stop)
        ids = torch.from_numpy(run.read("token_id")[where]).long()
        for layer, (block, hidden, (_, weights, chosen), _) in plain_routing(model, name, ids).items():
            expected = sorted_by_weight(weights.float().numpy(), chosen.numpy())
            stored_weights = run.read("expert_weight", (layer, where)).reshape(-1, RANKS)
            np.testing.assert_array_equal(stored_weights, expected[0])
            np.testing.assert_array_equal(run.read("expert_id", (layer, where)).reshape(-1, RANKS), expected[1])

            peaks = np.full((len(batch), block.experts.num_experts), np.nan, np.float32)
            tokens = hidden.reshape(-1, hidden.shape[-1])
            for expert in range(peaks.shape[1]):
                rows = torch.nonzero((chosen == expert).any(dim=-1))[:, 0]
                with torch.inference_mode():  # grouped as the model groups them: the same product, bit for bit
                    outputs = one_expert(block.experts, expert, tokens[rows]) if len(rows) else []
                for row, output in zip(rows, outputs, strict=True):
                    sequence = int(row) // POSITIONS
                    peaks[sequence, expert] = np.fmax(peaks[sequence, expert], float(output.abs().max()))
            np.testing.assert_array_equal(run.read("expert_peak", (layer, where)), peaks)


@pytest.mark.parametrize("name", ROUTERS)
def test_the_weights_multiply_the_outputs_and_the_peaks_are_theirs(
    name: str, captured: Callable[..., Run], plain_model: Callable[..., Any]
) -> None:
    """In float64, token by token, from what is stored: the block's output is rebuilt, and each expert's peak."""
    run, model = captured(name, "float32"), plain_model(name, "float32")
    ids = torch.from_numpy(run.read("token_id")[:1]).long()
    for layer, (block, hidden, _, returned) in plain_routing(model, name, ids).items():
        tokens = hidden.reshape(POSITIONS, -1)
        largest = np.full(block.experts.num_experts, np.nan)
        for position, token in enumerate(tokens):
            total = torch.zeros(token.shape, dtype=torch.float64)
            chosen = run.read("expert_id", (layer, 0, position))
            for expert, weight in zip(chosen, run.read("expert_weight", (layer, 0, position)), strict=True):
                with torch.inference_mode():
                    output = one_expert(block.experts, int(expert), token[None].double())[0]
                total += float(weight) * output
                largest[expert] = np.fmax(largest[expert], float(output.abs().max()))
            with torch.inference_mode():
                total = total + shared_expert(block, token[None])
            torch.testing.assert_close(
                total.flatten().float(), returned.reshape(POSITIONS, -1)[position], rtol=1e-4, atol=1e-6
            )
        np.testing.assert_allclose(run.read("expert_peak", (layer, 0)), largest, rtol=1e-5)


@pytest.mark.parametrize("name", ROUTERS)
def test_what_the_store_says_of_its_routing(name: str, captured: Callable[..., Run]) -> None:
    run = captured(name)
    _, weights_sum, dense = ROUTERS[name]
    routing = run.info.routing
    assert routing is not None
    layers = range(ARCHITECTURES[name].layer_count)
    assert routing.modules == [None if layer in dense else f"model.layers.{layer}.mlp.experts" for layer in layers]
    assert (routing.weights_sum, routing.absent, routing.peak_absent) == (weights_sum, None, None)
    for layer in dense:
        assert (run.read("expert_id", (layer,)) == NO_EXPERT).all()
        assert np.isnan(run.read("expert_weight", (layer,))).all()
        assert np.isnan(run.read("expert_peak", (layer,))).all()
    with_experts = [layer for layer in layers if layer not in dense]
    weights, ids = run.read("expert_weight")[with_experts], run.read("expert_id")[with_experts]
    assert (np.diff(weights, axis=-1) <= 0).all()
    assert (weights > 0).all()
    assert (ids < run.info.model.experts).all()
    sums = weights.astype(np.float64).sum(axis=-1)
    if weights_sum is None:
        assert np.ptp(sums) > 0.05
    else:
        assert abs(sums - weights_sum).max() <= weights_sum * RANKS * ROUNDING["bfloat16"]


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_a_dense_model_has_no_routing(name: str, captured: Callable[..., Run]) -> None:
    run = captured(name)
    assert run.info.routing is None
    assert not set(ARRAYS) & set(run.group.array_keys())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models_route_as_published(name: str) -> None:
    published = PUBLISHED[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(published.model_type, **published.config))
    routing = find_routing(model)
    assert (routing.absent, routing.peak_absent) == (None, None)
    assert (routing.experts, routing.top_k) == (published.experts, published.top_k)
    layers = model.config.num_hidden_layers
    assert (len(routing.modules), routing.layers) == (layers, layers - (name == "glm-4.5-air"))
    assert routing.weights_sum == (None if name == "olmoe-1b-7b" else 1.0)
