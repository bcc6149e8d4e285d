"""A mixture of experts with known truth: copies of a dense MLP under a random router compute the dense function."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench import upcycled
from bench.upcycled import EXPERTS, TOP_K, agreement, upcycle
from capture.cli import main as capture
from capture.model_facts import build_skeleton
from schemas.errors import InputError
from schemas.run import Run
from tests.checkpoints import write_checkpoint

Captured = Callable[..., Path]

SHARD_BYTES = 30_000


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "llama-tiny", "llama")


@pytest.fixture
def mixture(dense: Path, tmp_path: Path) -> Path:
    return upcycle(dense, tmp_path / "mixture", shard_bytes=SHARD_BYTES)


@pytest.fixture
def captured(tmp_path: Path) -> Captured:
    """Function from a checkpoint to its store, made anew each time."""
    stores = iter(range(100))

    def made(model: Path, *flags: str) -> Path:
        store = tmp_path / f"{next(stores)}.zarr"
        fixed = ["--model", str(model), "--store", str(store), "--text", "pydoc", "--device", "cpu", "-q"]
        assert capture([*fixed, "--sequences", "3", "--length", "48", *flags]) == 0
        return store

    return made


def scale(mixture: Path, name: str, factor: float) -> None:
    """Multiply one tensor of a sharded checkpoint."""
    file = mixture / json.loads((mixture / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(file)
    tensors[name] *= factor
    save_file(tensors, file, {"format": "pt"})


def test_the_mixture_is_in_mixtrals_own_format(dense: Path, mixture: Path) -> None:
    layers: list[set[str]] = []
    names: set[str] = set()
    for file in sorted(mixture.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names |= set(opened.keys())
            layers.append({name.split(".")[2] for name in opened.keys() if ".layers." in name})  # noqa: SIM118
    assert len(layers) >= 3
    assert any(one & other for one, other in itertools.pairwise(layers))  # a layer is cut
    assert "model.layers.3.block_sparse_moe.experts.3.w2.weight" in names
    assert "model.layers.0.block_sparse_moe.gate.weight" in names
    facts, before = build_skeleton(mixture, "auto").facts, build_skeleton(dense, "auto").facts
    assert (facts.architecture, facts.experts, facts.top_k) == ("MixtralForCausalLM", EXPERTS, TOP_K)
    mlp, router = 3 * 32 * 48, 32 * EXPERTS
    assert facts.total_parameters == before.total_parameters + before.layers * ((EXPERTS - 1) * mlp + router)
    assert facts.active_parameters == before.active_parameters + before.layers * ((TOP_K - 1) * mlp + router)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_both_engines_give_the_same_bits(dtype: str, mixture: Path, captured: Captured) -> None:
    resident, streamed = (
        Run(captured(mixture, "--dtype", dtype, "--engine", each)) for each in ("resident", "streamed")
    )
    assert streamed.info.software.engine == "streamed"
    for name in sorted(resident.group.array_keys()):
        assert resident.read(name).tobytes() == streamed.read(name).tobytes(), name


@pytest.mark.parametrize("engine", ["resident", "streamed"])
def test_the_mixture_agrees_with_the_dense_model(engine: str, dense: Path, mixture: Path, captured: Captured) -> None:
    flags = ("--dtype", "float32", "--engine", engine)
    found = agreement(captured(dense, *flags), captured(mixture, *flags))
    assert found.pairs == 3 * 32
    assert found.holds
    assert max(found.critical_steps, found.peak_steps) <= 32


# nothing captured comes after the last layer's experts
@pytest.mark.slow
@pytest.mark.parametrize(("layer", "matrix"), [(0, "w1"), (1, "w3"), (2, "w2")])
def test_one_expert_that_is_off_shows(layer: int, matrix: str, dense: Path, mixture: Path, captured: Captured) -> None:
    scale(mixture, f"model.layers.{layer}.block_sparse_moe.experts.1.{matrix}.weight", 1.1)
    found = agreement(captured(dense, "--dtype", "float32"), captured(mixture, "--dtype", "float32"))
    assert not found.holds


def test_the_demo_says_whether_it_holds(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUTLIER_FEATURES_CACHE", str(tmp_path / "cache"))
    asked = ["--model", str(dense), "--sequences", "2", "--length", "32", "--magnitude", "1"]
    assert upcycled.main([*asked, "--stores", str(tmp_path / "good")]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith("llama-")]
    assert [row[0] for row in rows[:2]] == ["llama-tiny", "llama-moe"]
    assert [row[0] for row in rows[2:]] == ["llama-tiny", "llama-moe"]  # perplexity and precision
    assert rows[2][1:] == rows[3][1:]
    assert rows[0][-4:] == rows[1][-4:]
    assert "The two rows agree: " in printed
    assert list((tmp_path / "cache").iterdir()) == []

    def with_a_fault(dense: Path, folder: Path) -> None:
        scale(upcycle(dense, folder), "model.layers.1.block_sparse_moe.experts.2.w2.weight", 2.0)

    monkeypatch.setattr(upcycled, "upcycle", with_a_fault)
    assert upcycled.main([*asked, "--stores", str(tmp_path / "bad")]) == 1
    assert "THE TWO ROWS SHOULD AGREE, AND DO NOT: " in capsys.readouterr().out


def test_only_a_llama_checkpoint_can_become_a_mixture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only a Llama checkpoint without biases"):
        upcycle(write_checkpoint(tmp_path / "qwen3", "qwen3"), tmp_path / "mixture")
