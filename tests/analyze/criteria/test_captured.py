"""Criteria of a real capture: a tiny mixture of experts, with its residual and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyze.criteria import criterion_names
from analyze.evaluation.evaluate import evaluate_criteria
from analyze.evaluation.exceedances import exceedances_by
from analyze.statistics.selection import Selection
from schemas.run import Run
from tests.capture.captures import PROSE, capture
from tests.checkpoints import write_checkpoint

FLAGS = ("--sequences", 2, "--length", 24)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of one model: with the residual, and without."""
    folder = tmp_path_factory.mktemp("captured")
    (folder / "text.txt").write_text(PROSE)
    model = write_checkpoint(folder / "model", "qwen3_moe")
    sites = ("--sites", "ln_attn,ln_mlp,residual")
    assert capture(model, folder / "with.zarr", folder / "text.txt", *FLAGS, *sites) == 0
    assert capture(model, folder / "without.zarr", folder / "text.txt", *FLAGS) == 0
    return folder / "with.zarr", folder / "without.zarr"


def test_all_criteria(stores: tuple[Path, Path]) -> None:
    for store in stores:
        assert tuple(evaluate_criteria(store)) == criterion_names()


def test_what_is_recovered_is_near_what_was_stored(stores: tuple[Path, Path]) -> None:
    names = "kurtosis,max-median,infinity-norm,top-values,massive"
    exact, near = (evaluate_criteria(store, names, Selection(sites=("ln_attn",))) for store in stores)
    for name, variable in (("kurtosis", "kurtosis"), ("max-median", "ratio"), ("top-values", "top")):
        a, b = exact[name][variable].sel(tensor="residual"), near[name][variable].sel(tensor="residual before ln_attn")
        np.testing.assert_allclose(a.values, b.values, rtol=0.02)
        assert (a != b).any()
    assert (exact["massive"]["values"].values == near["massive"]["values"].values).all()


def test_the_site_of_the_residual_and_the_residual_of_a_site_are_one(stores: tuple[Path, Path]) -> None:
    both = evaluate_criteria(stores[0], "top-values", Selection(sites=("ln_attn", "residual")))["top-values"]
    alone = evaluate_criteria(stores[0], "top-values", Selection(sites=("residual",)))["top-values"]
    assert both.tensor.values.tolist() == ["residual", "ln_attn"]
    assert (both.top.sel(tensor="residual") == alone.top.sel(tensor="residual")).all()


def test_the_residual_of_a_model_without_norms_before_its_blocks(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(PROSE)
    model = write_checkpoint(tmp_path / "model", "olmo2")
    sites = ("--sites", "ln_attn,ln_mlp,residual")
    assert capture(model, tmp_path / "run.zarr", tmp_path / "text.txt", *FLAGS, *sites) == 0
    assert Run(tmp_path / "run.zarr").info.site_array("residual") == "ln_attn"
    found = evaluate_criteria(tmp_path / "run.zarr", "top-values", Selection(sites=("ln_attn",)))["top-values"]
    assert found.tensor.values.tolist() == ["residual", "ln_attn"]
    assert (found.top.sel(tensor="residual") == found.top.sel(tensor="ln_attn")).all()
    assert not found.approximate.any()


def test_experts_share_the_tokens_and_their_hits(stores: tuple[Path, Path]) -> None:
    run = Run(stores[1])
    by_expert = exceedances_by(run, "expert", "0.5,1")
    by_layer = exceedances_by(run, "layer", "0.5,1").sel(site="ln_mlp")
    ranks = run.array("expert_id").shape[-1]
    tokens = run.dimensions.sequences * run.dimensions.positions
    mixed = np.array([module is not None for module in run.info.routing.modules])  # type: ignore[union-attr]
    assert mixed.sum() == 3  # its layer 1 is dense
    assert by_expert.tokens.sum("expert").values.tolist() == (ranks * tokens * mixed).tolist()
    assert (by_expert.hits.sum("expert") == by_layer.hits * (ranks * mixed)[:, None]).all()
    assert by_layer.hits.any()
    experts = evaluate_criteria(run, "super-experts")["super-experts"]
    assert float(experts.largest.max()) == np.nanmax(run.read("expert_peak"))
