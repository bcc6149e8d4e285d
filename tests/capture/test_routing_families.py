"""Routing of families beyond the six, and of models that compute experts otherwise: right, or said to be absent."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

import capture.routing
import capture.session
from capture.cli import main
from capture.experts import find_routing
from capture.routing import RoutingHooks, expert_peaks, row_peaks
from schemas import ENCODINGS, Run
from schemas.errors import CaptureError
from tests.capture.captures import capture as run_capture
from tests.checkpoints import VOCABULARY_SIZE, write_tokenizer

SEQUENCES, POSITIONS = 2, 6

_SIZES = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
_DEEPSEEK = _LATENT | {
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
_LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
_NUMBERED = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

FAMILIES: dict[str, tuple[dict[str, Any], float | None, int]] = {
    # configuration; what the weights of a token sum to; how many of the layers have experts
    "deepseek_v2": (_DEEPSEEK, None, 2),
    "deepseek_v3": (_DEEPSEEK | {"head_dim": 4, "routed_scaling_factor": 2.5}, 2.5, 2),
    "ernie4_5_moe": ({"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 16, "head_dim": 8}, 1.0, 2),
    "flex_olmo": (_NUMBERED, None, 3),
    "granitemoe": (_LOCAL, 1.0, 3),
    "jamba": ({"num_experts": 8, "num_experts_per_tok": 2, "use_mamba_kernels": False}, None, 1),
    "minimax_m2": (_LOCAL | {"head_dim": 8}, 1.0, 3),
    "nemotron_h": (
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "head_dim": 8,
            "layers_block_type": ["moe", "attention", "moe"],
        },
        1.0,
        2,
    ),
    "phimoe": (_LOCAL, None, 3),
    "qwen2_moe": (_NUMBERED | {"shared_expert_intermediate_size": 16}, None, 3),
}
OTHERWISE: dict[str, tuple[dict[str, Any], str]] = {
    # configuration; why its routing is not observed
    "gemma4_text": (
        {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 16, "head_dim": 8},
        "model.layers.0.experts cannot be called apart from its layer: ",
    ),
    "jetmoe": (_LOCAL | {"kv_channels": 8}, "JetMoeForCausalLM computes its experts in a way of its own"),
    "llama4_text": (_LOCAL | {"head_dim": 8}, "Llama4ForCausalLM computes its experts in a way of its own"),
}


def made(family: str, changes: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """A model with random weights."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(_SIZES | changes)), dtype=dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15, generator=generator)
    return model


def router_class(model: Any) -> type:
    recorded = [getattr(module, "_can_record_outputs", None) or {} for module in model.modules()]
    return next(held["router_logits"].target_class for held in recorded if "router_logits" in held)  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_beyond_the_six(family: str) -> None:
    """Ids and weights as its routers give them; peaks as its experts give them, a token and an expert at a time."""
    changes, weights_sum, layers = FAMILIES[family]
    model = made(family, changes)
    with torch.device("meta"):
        routing = find_routing(AutoModelForCausalLM.from_config(model.config, dtype=torch.float32))
    assert (routing.absent, routing.peak_absent, routing.weights_sum) == (None, None, weights_sum)
    assert (routing.layers, routing.experts, routing.top_k) == (layers, 8, 2)

    ids = torch.arange(SEQUENCES * POSITIONS).reshape(SEQUENCES, POSITIONS) + 3
    routers = [module for module in model.modules() if isinstance(module, router_class(model))]
    results: list[Any] = []
    inputs: list[torch.Tensor] = []
    handles = [router.register_forward_hook(lambda module, args, result: results.append(result)) for router in routers]
    with_experts = [path for path in routing.modules if path]
    for path in with_experts:
        handles.append(model.get_submodule(path).register_forward_pre_hook(lambda m, args: inputs.append(args[0])))
    with torch.inference_mode():
        plain = model(ids, use_cache=False).logits
    for handle in handles:
        handle.remove()

    seen: dict[tuple[str, int], torch.Tensor] = {}
    hooks = RoutingHooks(model, routing, lambda name, layer, values: seen.__setitem__((name, layer), values))
    with torch.inference_mode(), hooks:
        hooks.expect(SEQUENCES, POSITIONS, 32)
        assert torch.equal(model(ids, use_cache=False).logits, plain)
        hooks.check()
    assert len(seen) == 3 * layers

    observed = [layer for layer, path in enumerate(routing.modules) if path]
    for layer, path, hidden, result in zip(observed, with_experts, inputs, results, strict=True):
        weights, chosen = (value.numpy() for value in result[1:3])
        order = np.argsort(-weights, axis=-1, kind="stable")
        stored = {name: seen[name, layer].reshape(SEQUENCES * POSITIONS, -1) for name in ("expert_id", "expert_weight")}
        np.testing.assert_array_equal(stored["expert_id"], np.take_along_axis(chosen, order, -1))
        np.testing.assert_array_equal(stored["expert_weight"], np.take_along_axis(weights, order, -1))
        peaks = np.full((SEQUENCES, 8), np.nan, np.float32)
        for row in range(SEQUENCES * POSITIONS):
            for expert in chosen[row]:
                with torch.inference_mode():
                    alone = torch.tensor([[expert]]), torch.ones(1, 1)
                    output = model.get_submodule(path)(hidden[row : row + 1], *alone)
                cell = row // POSITIONS, expert
                peaks[cell] = np.fmax(peaks[cell], float(output.abs().max()))
        np.testing.assert_allclose(seen["expert_peak", layer], peaks, rtol=2e-6)


@pytest.mark.parametrize("family", OTHERWISE)
def test_a_family_whose_routing_is_not_observed(family: str) -> None:
    changes, why = OTHERWISE[family]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(_SIZES | changes)))
    routing = find_routing(model)
    assert routing.absent is not None
    assert routing.absent.startswith(why)
    assert (routing.modules, routing.experts, routing.top_k) == ((), 0, 0)


def test_a_model_is_captured_without_its_routing_and_the_store_says_why(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, why = OTHERWISE["jetmoe"]
    folder = tmp_path / "jetmoe"
    made("jetmoe", changes, torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, VOCABULARY_SIZE)
    store = tmp_path / "run.zarr"
    flags = ["--sequences", "2", "--length", "8"]
    assert main(["--model", str(folder), "--store", str(store), "--text", str(text), *flags, "--device", "cpu"]) == 0
    assert capsys.readouterr().err.count(f"capture: routing: not stored: {why}") == 1
    run = Run(store)
    assert run.complete_sequences() == [0, 1]
    assert run.info.routing is not None
    assert str(run.info.routing.absent).startswith(why)
    assert not {"expert_id", "expert_weight", "expert_peak"} & set(run.group.array_keys())


# --- what stops a capture


def test_experts_that_are_bypassed_stop_the_capture(
    checkpoint: Callable[[str], Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As native MXFP4 kernels do: they replace the block's forward, and call neither router nor experts."""

    def kernel(self: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return hidden_states, hidden_states

    store = tmp_path / "run.zarr"
    loaded = capture.session.load_model

    def with_kernels(*arguments: Any) -> Any:
        model = loaded(*arguments)
        monkeypatch.setattr(GptOssMLP, "forward", kernel)
        return model

    monkeypatch.setattr("capture.session.load_model", with_kernels)
    assert run_capture(checkpoint("gpt_oss"), store, text, "--sequences", 1, "--length", 8, "--engine", "resident") == 1
    told = capsys.readouterr().err
    assert "layer 0 computed without a call of its experts (model.layers.0.mlp.experts)" in told
    assert not Run(store).committed().any()


def hooked(model: Any, **changes: Any) -> RoutingHooks:
    with torch.device("meta"):
        routing = find_routing(AutoModelForCausalLM.from_config(model.config, dtype=torch.float32))
    return RoutingHooks(model, dataclasses.replace(routing, **changes), lambda name, layer, values: None)


def run(model: Any, hooks: RoutingHooks) -> None:
    with torch.inference_mode(), hooks:
        hooks.expect(1, POSITIONS, 32)
        model(torch.arange(POSITIONS)[None] + 3, use_cache=False)
        hooks.check()


def test_experts_computed_otherwise_than_planned_stop_the_capture() -> None:
    model = made("granitemoe", _LOCAL)
    hooks = hooked(model)
    model.set_experts_implementation("eager")
    with pytest.raises(CaptureError, match=r"experts is computed by eager"):
        run(model, hooks)
    assert not model.model.layers[0].block_sparse_moe.experts._forward_pre_hooks


def test_outputs_that_do_not_pass_stop_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    def unseen(experts: Any, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return hidden

    model = made("granitemoe", _LOCAL)
    hooks = hooked(model)
    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "grouped_mm", unseen)
    with pytest.raises(CaptureError, match=r"outputs of the experts of layer 0 \(.*\) did not pass where they should"):
        run(model, hooks)


def test_experts_called_twice_stop_the_capture() -> None:
    model = made("granitemoe", _LOCAL)
    block = model.model.layers[2].block_sparse_moe
    block.register_forward_hook(lambda module, args, result: module.forward(*args))
    with pytest.raises(CaptureError, match=r"layers\.2\..*experts is called a second time in one forward"):
        run(model, hooked(model))


def test_eager_experts_have_ids_and_weights_and_no_peaks() -> None:
    model = made("granitemoe", _LOCAL)
    model.set_experts_implementation("eager")
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32, experts_implementation="eager")
    routing = find_routing(skeleton)
    assert routing.peak_absent == "the experts are computed by eager"
    seen: list[str] = []
    hooks = RoutingHooks(model, routing, lambda name, layer, values: seen.append(name))
    run(model, hooks)
    assert sorted(seen) == ["expert_id"] * 3 + ["expert_weight"] * 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"experts": 4}, r"is called with ids \d to [4-7]; it has 4 experts"),
        ({"top_k": 3}, r"is called with ids of shape \(6, 2\) where \(6, 3\) is due"),
    ],
)
def test_a_call_that_is_not_the_planned_one_stops_the_capture(changes: dict[str, int], told: str) -> None:
    model = made("granitemoe", _LOCAL)
    with pytest.raises(CaptureError, match=told):
        run(model, hooked(model, **changes))


def test_weights_that_are_all_zero_stop_the_capture() -> None:
    model = made("qwen2_moe", FAMILIES["qwen2_moe"][0])
    model.model.layers[1].mlp.gate.register_forward_hook(lambda m, args, result: (result[0], result[1] * 0, result[2]))
    with pytest.raises(CaptureError, match=r"layers\.1\.mlp\.experts is called with weights that are all 0"):
        run(model, hooked(model))


def test_nothing_stays_on_the_model() -> None:
    model = made("granitemoe", _LOCAL)
    experts = model.model.layers[0].block_sparse_moe.experts
    before = dict(vars(experts))
    run(model, hooked(model))
    assert {name: value for name, value in vars(experts).items() if name != "_forward_pre_hooks_with_kwargs"} == {
        name: value for name, value in before.items() if name != "_forward_pre_hooks_with_kwargs"
    }
    assert not experts._forward_pre_hooks


def test_a_dry_run_says_what_is_routed(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_capture(checkpoint("qwen3_moe"), tmp_path / "run.zarr", text, "--length", 8, "--dry-run") == 0
    assert "\nrouting     2 of 4 experts a token in 3 of 4 layers\n" in capsys.readouterr().out


def test_a_store_that_was_begun_without_these_arrays_is_not_continued(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "run.zarr"
    flags = ("--sequences", 2, "--length", 8)
    assert run_capture(checkpoint("mixtral"), store, text, *flags) == 0
    shutil.rmtree(store / "expert_peak")
    root = json.loads((store / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (store / "zarr.json").write_text(json.dumps(root))
    assert run_capture(checkpoint("mixtral"), store, text, *flags) == 0  # complete: nothing to add
    (store / "committed" / "c.0.1").unlink()
    capsys.readouterr()
    assert run_capture(checkpoint("mixtral"), store, text, *flags) == 2
    assert "which stored no expert_peak: finish it with that version" in capsys.readouterr().err


# --- peaks


@pytest.mark.parametrize("values_at_once", [1, 40, 2**20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_row_peaks_pass_over_nan(dtype: torch.dtype, values_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture.routing, "CACHED_VALUES", values_at_once)
    rows = torch.randn((13, 7), generator=torch.Generator().manual_seed(0)).to(dtype)
    rows[1, 3], rows[2, 0], rows[3], rows[4] = float("nan"), -float("inf"), float("nan"), -0.0
    rows[5, 1:3] = torch.tensor([float("inf"), float("nan")], dtype=dtype)
    rows[6] = -rows[6].abs()
    values = rows.double().numpy()
    expected = np.where(np.isnan(values), 0, np.abs(values)).max(axis=1)
    peaks = row_peaks(rows)
    assert peaks.dtype == torch.float32
    np.testing.assert_array_equal(peaks, expected)
    assert not np.signbit(peaks.numpy()).any()
    assert str(dtype).removeprefix("torch.") in ENCODINGS


@pytest.mark.parametrize("by_expert", [False, True])
def test_peaks_belong_to_their_sequence_and_expert(by_expert: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, ranks, experts, sequences = 12, 3, 20, 3
    outputs = torch.randn((tokens * ranks, 5), generator=generator)
    ids = torch.stack([torch.randperm(experts, generator=generator)[:ranks] for _ in range(tokens)])
    expected = np.full((sequences, experts), np.nan, np.float32)
    for row, output in enumerate(outputs.numpy()):
        cell = row // ranks // (tokens // sequences), int(ids.reshape(-1)[row])
        expected[cell] = np.fmax(expected[cell], np.abs(output).max())
    given = outputs[torch.sort(ids.reshape(-1))[1]] if by_expert else outputs  # the sort that transformers makes
    np.testing.assert_array_equal(expert_peaks(given, ids, sequences, experts, by_expert), expected)
    assert np.isnan(expected).any()
