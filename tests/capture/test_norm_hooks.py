"""What is stored of norms is true, gives the residual back, and a hook that lies stops the run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import capture.preparation as preparation
from capture.hooks import SiteHooks
from capture.norm_hooks import NormHooks
from capture.norms import norm_rule, with_norms
from capture.plan import CapturePlan
from capture.sites import Site
from schemas import ENCODINGS, Run, open_run, recover_residual
from schemas.errors import CaptureError, CorruptChunkError, StoreError
from schemas.layout import Dimensions, plan_arrays
from schemas.run_writer import RunWriter
from tests.capture.captures import POSITIONS, SEQUENCES, capture
from tests.capture.made_up import FACTS
from tests.checkpoints import ARCHITECTURES

Array = np.ndarray[Any, Any]

WITH_NORMS = [name for name, about in ARCHITECTURES.items() if not about.carried]
CASES = [(name, dtype) for name in WITH_NORMS for dtype in ("bfloat16", "float32")]
CASES += [(name, "float16") for name in ("llama", "gpt2", "qwen3_next", "opt_350m", "cohere")]


def norm_inputs(model: Any, run: Run) -> dict[tuple[str, int], Array]:
    """(site, layer) -> what enters its norm in a plain forward, (sequence, position, feature) in float64."""
    seen: dict[str, list[torch.Tensor]] = {}
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda module, args, path=path: seen.setdefault(path, []).append(args[0].double().reshape(POSITIONS, -1))
        )
        for about in run.info.sites.values()
        if about.norm is not None
        for path in about.norm.modules
    ]
    with torch.no_grad():
        for ids in torch.from_numpy(run.read("token_id")).long():
            model(ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return {
        (site, layer): torch.stack(seen[path]).numpy()
        for site, about in run.info.sites.items()
        if about.norm is not None
        for layer, path in enumerate(about.norm.modules)
        if path is not None
    }


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_norms_are_stored_and_give_the_residual_back(
    name: str, dtype: str, captured: Callable[..., Run], plain_model: Callable[..., Any]
) -> None:
    run, model = captured(name, dtype), plain_model(name, dtype)
    inputs = norm_inputs(model, run)
    assert inputs
    rounding = torch.finfo(getattr(torch, dtype)).eps  # of two roundings, half of it each
    parameters = {path: value.detach().double().numpy() for path, value in model.named_parameters()}
    for (site, layer), x in inputs.items():
        norm = run.info.sites[site].norm
        assert norm is not None
        assert norm.eps is not None
        if norm.kind == "rms":
            mean, spread = np.zeros(x.shape[:-1]), np.sqrt((x**2).mean(-1))
            np.testing.assert_allclose(run.read(f"{site}_rms", (layer,)), spread, rtol=2e-6)
        else:
            mean, spread = x.mean(-1), x.std(-1)
            size = np.abs(x).max(-1)
            assert np.all(np.abs(run.read(f"{site}_mean", (layer,)) - mean) <= 1e-6 * size)
            assert np.all(np.abs(run.read(f"{site}_std", (layer,)) - spread) <= 1e-6 * size)
        gain = parameters[f"{norm.modules[layer]}.{norm.gain}"] + ARCHITECTURES[name].one_plus_gain
        np.testing.assert_array_equal(run.read(f"{site}_gain", (layer,)), gain.astype(np.float32))
        bias = np.zeros_like(gain)
        if norm.bias:
            bias = parameters[f"{norm.modules[layer]}.{norm.bias}"]
            np.testing.assert_array_equal(run.read(f"{site}_bias", (layer,)), bias.astype(np.float32))
        for sequence in range(SEQUENCES):
            recovered = recover_residual(run, site, layer, sequence)
            scale = np.sqrt(spread[sequence] ** 2 + norm.eps)[:, None]
            relative_to = np.abs(x[sequence] - mean[sequence, :, None]) + np.abs(bias / gain) * scale
            slack = 1e-6 * np.abs(x[sequence]).max(-1, keepdims=True)  # float32, and means
            assert np.all(np.abs(recovered - x[sequence]) <= rounding * relative_to + slack)


def test_sites_without_norms_have_no_arrays_of_them(captured: Callable[..., Run]) -> None:
    run = captured("olmo2")
    assert not [name for name in run.group.array_keys() if name.endswith(("_rms", "_mean", "_std", "_gain", "_bias"))]
    with pytest.raises(StoreError, match=r"no norm for ln_attn of layer 1 \(what enters .* is the layer's own input\)"):
        recover_residual(run, "ln_attn", 1, 0)
    with pytest.raises(StoreError, match="has no site 'ln_router'; it has: ln_attn, ln_mlp"):
        recover_residual(run, "ln_router", 1, 0)


def test_an_alias_shows_the_norm_of_its_source(captured: Callable[..., Run]) -> None:
    run = captured("cohere")
    np.testing.assert_array_equal(recover_residual(run, "ln_mlp", 1, 2), recover_residual(run, "ln_attn", 1, 2))
    dataset = open_run(run.path)
    assert dataset.ln_mlp_std.dims == ("layer", "sequence", "position")
    assert dataset.ln_mlp_gain.dims == ("layer", "feature")
    np.testing.assert_array_equal(dataset.ln_mlp_mean, run.read("ln_attn_mean"))


# --- the check -------------------------------------------------------------------------------------------------------


def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[tuple[Site, ...]], tuple[Site, ...]]) -> None:
    monkeypatch.setattr(preparation, "with_norms", lambda model, sites: change(with_norms(model, sites)))


def replaced(site: Site, layer: int, module: str) -> Site:
    modules = (*site.modules[:layer], module, *site.modules[layer + 1 :])
    return dataclasses.replace(site, modules=modules)


@pytest.mark.parametrize("engine", ["resident", "streamed", "lockstep"])
def test_a_hook_on_another_tensor_stops_the_run(
    engine: str,
    checkpoint: Callable[[str], Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In layer 2 the MLP's site is what enters attention's last product, which is as wide in this checkpoint."""

    def lie(sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return sites[0], replaced(sites[1], 2, "model.layers.2.self_attn.o_proj")

    changed(monkeypatch, lie)
    flags = ("--sequences", 2, "--length", 24, "--engine", engine)
    assert capture(checkpoint("gpt_oss_bf16"), tmp_path / "run.zarr", text, *flags) == 1
    error = capsys.readouterr().err
    assert "ln_mlp of layer 2" in error
    assert "was to feed it and did not run before" in error
    committed = Run(tmp_path / "run.zarr").committed()
    assert not committed[2:].any()
    assert committed[0].all() == (engine != "resident")


@pytest.mark.parametrize("engine", ["resident", "streamed"])
def test_a_gain_that_is_not_the_one_applied_stops_the_run(
    engine: str,
    checkpoint: Callable[[str], Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lie(sites: tuple[Site, ...]) -> tuple[Site, ...]:
        assert sites[1].norm is not None
        return sites[0], dataclasses.replace(sites[1], norm=sites[1].norm.model_copy(update={"one_plus": True}))

    changed(monkeypatch, lie)
    flags = ("--sequences", 2, "--length", 24, "--engine", engine)
    assert capture(checkpoint("llama"), tmp_path / "run.zarr", text, *flags) == 1
    error = capsys.readouterr().err
    assert "ln_mlp of layer 0: at position 0 the mean of (y / gain)^2 is 0.2" in error
    assert "what entered model.layers.0.post_attention_layernorm it is 0.99" in error
    assert not Run(tmp_path / "run.zarr").committed().any()


class Mixer(nn.Module):
    """Something that a site can be hooked on."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


class Block(nn.Module):
    """A layer whose mixer is given what its norm makes, or what ``lie`` makes of the residual and that."""

    def __init__(self, norm: nn.Module, lie: Callable[..., torch.Tensor] | None = None) -> None:
        super().__init__()
        self.norm, self.mixer, self.lie = norm, Mixer(), lie

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(residual)
        return self.mixer(self.lie(residual, hidden) if self.lie else hidden)


class Recorder:
    """What hooks hand on, by array."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def observe(self, name: str, layer: int, values: torch.Tensor) -> None:
        self.seen[name] = values

    observe_layer = cell = observe


def run(block: Block, residual: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is stored of one forward of ``block`` on (sequence, position, feature)."""
    sequences, positions, features = residual.shape
    rule = norm_rule(block.norm, features)
    assert rule is not None
    site = Site("ln_attn", ("mixer",), norm=rule.model_copy(update={"modules": ["norm"]}))
    dimensions, encoding = Dimensions(1, sequences, positions, features), ENCODINGS["float32"]
    arrays = plan_arrays(dimensions, ["ln_attn"], encoding, norms={"ln_attn": site.norm})  # type: ignore[dict-item]
    plan = CapturePlan(FACTS, (site,), dimensions, encoding, sequences, arrays)
    sink: Any = Recorder()
    norms = NormHooks(block, plan, sink, sink.cell)
    with torch.inference_mode(), norms, SiteHooks(block, (site,), residual.dtype, norms.site) as sites:
        norms.expect(sequences, positions, features)
        sites.expect(sequences, positions, features)
        block(residual)
        sites.check()
        norms.check()
    recorded: dict[str, torch.Tensor] = sink.seen
    return recorded


FEATURES = 48
NORMS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: LlamaRMSNorm(FEATURES, eps=1e-6),
    "gemma": lambda: Gemma3RMSNorm(FEATURES, eps=1e-6),
    "cohere": lambda: CohereLayerNorm((FEATURES,), eps=1e-5),
    "layer": lambda: nn.LayerNorm(FEATURES),
    "rms": lambda: nn.RMSNorm(FEATURES, eps=1e-5),
}
GAINS: dict[str, Callable[[torch.Generator], torch.Tensor]] = {
    "usual": lambda g: torch.rand(FEATURES, generator=g) + 0.5,
    "of both signs": lambda g: torch.randn(FEATURES, generator=g),
    "some zero": lambda g: torch.randn(FEATURES, generator=g) * (torch.rand(FEATURES, generator=g) > 0.5),
    "all zero": lambda g: torch.zeros(FEATURES),
    "tiny": lambda g: torch.randn(FEATURES, generator=g) * 1e-5,
    "about the least": lambda g: torch.randn(FEATURES, generator=g).sign() * 7e-5,  # of float16: products lose bits
    "large": lambda g: torch.randn(FEATURES, generator=g) * 300,
}


def residuals(dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Residual streams to be wary of, by what they are."""
    g = torch.Generator().manual_seed(1)
    usual = torch.randn(2, 24, FEATURES, generator=g)
    massive = usual.clone()
    massive[:, 0, 5], massive[:, 3, 7] = 6e4, -3e4
    yield "usual", usual
    yield "massive", massive
    yield "far below eps", usual * 1e-5
    yield "zeros", usual * 0
    yield "one token", usual[:1, :1]
    yield "one feature alone", usual * (torch.arange(FEATURES) == 3)
    yield "far from zero", usual + 100
    yield "very far from zero", usual + 3e4
    yield "constant", torch.full((1, 5, FEATURES), 3.0)
    if dtype != torch.float16:
        yield "1e5", massive * 1e5
        yield "beyond the square root of float32", massive * 1e16
    broken = usual.clone()
    broken[0, 0, 0], broken[1, 3, 1] = float("nan"), float("inf")
    yield "NaN and infinity", broken


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("gains", GAINS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_check_is_never_wrong(norm: str, gains: str, dtype: torch.dtype) -> None:
    module = NORMS[norm]()
    g = torch.Generator().manual_seed(0)
    for parameter, values in zip(
        module.parameters(), (GAINS[gains](g), torch.randn(FEATURES, generator=g)), strict=False
    ):
        parameter.data = values - float(norm == "gemma")
    for about, residual in residuals(dtype):
        seen = run(Block(module.to(dtype)), residual.to(dtype))
        assert seen["ln_attn_gain"].shape == (FEATURES,), about


LIES: dict[str, Callable[..., torch.Tensor]] = {
    "the residual": lambda residual, hidden: residual,
    "a scaled output": lambda residual, hidden: hidden * 1.05,
    "another position's": lambda residual, hidden: hidden.roll(1, dims=1),
    "the residual after it": lambda residual, hidden: hidden + residual,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_check_finds_another_tensor(norm: str, lie: str, dtype: torch.dtype) -> None:
    module = NORMS[norm]().to(dtype)
    residual = (torch.randn(2, 24, FEATURES, generator=torch.Generator().manual_seed(2)) * 3).to(dtype)
    what = "what entered is not" if lie == "another position's" else r"the mean of \(y / gain\)\^2 is"
    with pytest.raises(CaptureError, match=f"ln_attn of layer 0: .*{what}"):
        run(Block(module, LIES[lie]), residual)


def test_a_copy_of_the_output_is_the_output() -> None:
    residual = torch.randn(2, 24, FEATURES)
    assert "ln_attn_rms" in run(Block(NORMS["llama"](), lambda residual, hidden: hidden.clone()), residual)


@pytest.mark.parametrize("keep", ["floor=0.5", "peaks"])
def test_what_is_not_kept_is_not_recovered(
    keep: str, checkpoint: Callable[[str], Path], captured: Callable[..., Run], text: Path, tmp_path: Path
) -> None:
    store = tmp_path / "run.zarr"
    flags = ("--sequences", SEQUENCES, "--length", POSITIONS, "--keep", keep)
    assert capture(checkpoint("qwen3"), store, text, *flags) == 0
    whole = recover_residual(captured("qwen3"), "ln_mlp", 1, 0)
    if keep == "peaks":
        with pytest.raises(StoreError, match="keeps peaks only"):
            recover_residual(Run(store), "ln_mlp", 1, 0)
        return
    kept = np.abs(open_run(captured("qwen3").path).ln_mlp[1, 0].values) >= 0.5
    np.testing.assert_array_equal(recover_residual(Run(store), "ln_mlp", 1, 0), np.where(kept, whole, np.nan))
    assert 0.1 < kept.mean() < 0.9


# --- the store -------------------------------------------------------------------------------------------------------


def test_a_gain_that_is_missing_is_damage(captured: Callable[..., Run], tmp_path: Path) -> None:
    shutil.copytree(captured("llama").path, tmp_path / "run.zarr")
    (tmp_path / "run.zarr" / "ln_mlp_gain" / "c.1.0").unlink()
    (tmp_path / "run.zarr" / "committed" / "c.0.2").unlink()  # the other sequences vouch for it
    run = Run(tmp_path / "run.zarr")
    assert np.isfinite(run.read("ln_mlp_gain", (0,))).all()
    with pytest.raises(CorruptChunkError, match=r"ln_mlp_gain/c\.1\.0 \(layer 1\) is damaged: the file is missing"):
        run.read("ln_mlp_gain")


def test_gains_are_on_disk_before_any_commit(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write of the first batch is slow: later batches, which do not write it, wait for it too."""
    done: list[str] = []
    write, commit = RunWriter.write, RunWriter.commit

    def slow_write(self: RunWriter, name: str, *arguments: Any) -> None:
        if name == "ln_attn_gain" and arguments[0] == (0,):
            time.sleep(1)
        write(self, name, *arguments)
        done.append(name)

    def seen_commit(self: RunWriter, *arguments: Any) -> None:
        commit(self, *arguments)
        done.append("commit")

    monkeypatch.setattr(RunWriter, "write", slow_write)
    monkeypatch.setattr(RunWriter, "commit", seen_commit)
    monkeypatch.setattr("os.cpu_count", lambda: 8)  # four writers
    assert capture(checkpoint("llama"), tmp_path / "run.zarr", text, "--sequences", 3, "--length", 24) == 0
    gains = [place for place, name in enumerate(done) if name.endswith("_gain")]
    assert len(gains) == 2 * ARCHITECTURES["llama"].layer_count  # once, not for every batch
    assert max(gains) < done.index("commit")


def test_a_store_of_format_1_0_is_finished_without_norms(
    checkpoint: Callable[[str], Path], captured: Callable[..., Run], text: Path, tmp_path: Path
) -> None:
    whole, path = captured("llama"), tmp_path / "run.zarr"
    shutil.copytree(whole.path, path)
    root = json.loads((path / "zarr.json").read_text())
    root.pop("consolidated_metadata", None)
    root["attributes"]["format_version"] = "1.0"
    for site in root["attributes"]["sites"].values():
        del site["norm"]
        site["modules"] = list(site["modules"])
    (path / "zarr.json").write_text(json.dumps(root))
    for array in path.glob("ln_*_*"):
        if array.name.endswith(("_rms", "_gain")):
            shutil.rmtree(array)
    (path / "committed" / "c.0.1").unlink()
    assert Run(path).complete_sequences() == [0, 2]
    assert capture(checkpoint("llama"), path, text, "--sequences", SEQUENCES, "--length", POSITIONS) == 0
    run = Run(path)
    assert run.info.format_version == "1.0"
    names = set(run.group.array_keys())
    assert set(whole.group.array_keys()) - names == {f"ln_{s}_{q}" for s in ("attn", "mlp") for q in ("rms", "gain")}
    for name in names:
        assert run.read(name).tobytes() == whole.read(name).tobytes(), name
    with pytest.raises(StoreError, match=r"no norm for ln_attn of layer 0 \(none was looked for\)"):
        recover_residual(run, "ln_attn", 0, 0)
