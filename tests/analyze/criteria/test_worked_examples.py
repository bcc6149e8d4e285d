"""The examples of docs/definitions.md, done there by hand: as they stand on the page, and through whole stores."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze.criteria import criterion_names
from analyze.criteria.infinity_norm import value_kurtosis
from analyze.criteria.kurtosis import rms_kurtosis
from analyze.criteria.massive import massive
from analyze.criteria.max_median import max_median_ratios
from analyze.criteria.super_experts import super_experts
from analyze.criteria.systematic_channels import times_median
from analyze.criteria.top_values import three_largest
from analyze.criteria.variance import times_mean
from analyze.criteria.z_score import z_scores
from analyze.evaluation.evaluate import evaluate_criteria
from analyze.evaluation.exceedances import exceedances_by
from analyze.statistics.channels import Channels
from analyze.statistics.medians import middle_of_all, middle_of_rows
from analyze.statistics.selection import Selection
from tests.stores import write_store

PAGE = (Path(__file__).parents[3] / "docs/definitions.md").read_text(encoding="utf-8")
NAMES = {
    "np": np,
    "Channels": Channels,
    "massive": massive,
    "max_median_ratios": max_median_ratios,
    "middle_of_all": middle_of_all,
    "middle_of_rows": middle_of_rows,
    "rms_kurtosis": rms_kurtosis,
    "super_experts": super_experts,
    "three_largest": three_largest,
    "times_mean": times_mean,
    "times_median": times_median,
    "value_kurtosis": value_kurtosis,
    "z_scores": z_scores,
}
BLOCKS = {
    name: re.findall(r"^```python\n(>>> .*?)^```", section, re.DOTALL | re.MULTILINE)
    for name, section in re.findall(r"^### `([a-z-]+)`(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)
}


def test_every_criterion_has_its_section() -> None:
    assert sorted(BLOCKS) == sorted(criterion_names())


@pytest.mark.parametrize("name", criterion_names())
def test_the_page_is_right(name: str) -> None:
    assert BLOCKS[name]
    for block in BLOCKS[name]:
        test = doctest.DocTestParser().get_doctest(block, dict(NAMES), name, "docs/definitions.md", 0)
        assert doctest.DocTestRunner().run(test).failed == 0


EXAMPLES: dict[str, tuple[Any, dict[str, float]]] = {
    "massive": (
        [[250, 0.25, 0.25, 0.5], [190, 0.125, 0.125, 0.25]],
        {"values": 1, "tokens": 1, "values_token_median": 1, "tokens_token_median": 1, "median": 0.25, "largest": 250},
    ),
    "kurtosis": ([[1, 1, 1, 1], [1, 1, 1, 3]], {"kurtosis": 1.75}),
    "max-median": ([[1, -2, 4, 30], [2, 2, 2, 6]], {"ratio": 6.5, "not_finite": 0}),
    "infinity-norm": ([[0, 0], [0, 4]], {"mean_largest": 4, "mean_kurtosis": 21 / (16 + 1e-6)}),
    "top-values": ([[1, -7], [3, 2]], {"first": 7, "second": 3, "third": 2, "middle": 2.5}),
    "systematic-channels": ([[1, 2, 3, 26], [1, -2, 3, -26]], {"count": 1, "largest": 10.4}),
    "variance": ([[0] * 8, [1] * 7 + [8]], {"count": 1, "largest": 16 / 2.21875}),
    "z-score": (np.outer([-1, 0, 1], [1] * 15 + [9]), {"count": 1, "largest": 3.75}),
    "channel-magnitudes": ([[1, -8], [3, 2]], {"channel_max": 8, "channel_max_at": 1, "channel_mean": 5}),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("encoding", ["bfloat16", "float32"])
def test_a_store_says_the_same(name: str, encoding: str, tmp_path: Path) -> None:
    x, expected = EXAMPLES[name]
    site = "residual" if name == "massive" else "ln_mlp"
    write_store(tmp_path / "s.zarr", {site: np.array(x, np.float32)[None, None]}, encoding)
    found = evaluate_criteria(tmp_path / "s.zarr", name, Selection(sites=(site,)))[name].isel(layer=0).sel(tensor=site)
    assert {variable: float(found[variable]) for variable in expected} == pytest.approx(expected, rel=1e-12)


def test_super_experts_of_a_store(tmp_path: Path) -> None:
    peaks = np.ones((4, 2, 100), np.float32)
    peaks[0, 1, 7], peaks[1, 0, 2], peaks[3, 0, 5] = 60, 40, 50
    values = {"ln_mlp": np.zeros((4, 2, 3, 2), np.float32)}
    write_store(tmp_path / "s.zarr", values, beside={"expert_peak": peaks}, model={"experts": 100})
    found = evaluate_criteria(tmp_path / "s.zarr", "super-experts")["super-experts"]
    assert np.argwhere(found["super"].values).tolist() == [[0, 7]]
    assert round(float(found.percentile), 2) == 40.05


def test_experts_of_three_tokens(tmp_path: Path) -> None:
    values = {"ln_mlp": np.array([[7, 0], [1, 6], [8, 2]], np.float32)[None, None]}
    beside = {
        "expert_id": np.array([[0, 1], [1, 2], [0, 2]], np.uint16)[None, None],
        "expert_weight": np.full((1, 1, 3, 2), 0.5, np.float32),
        "expert_peak": np.ones((1, 1, 3), np.float32),
    }
    write_store(tmp_path / "s.zarr", values, beside=beside, model={"experts": 3, "top_k": 2})
    found = exceedances_by(tmp_path / "s.zarr", "expert", "6", positions="60%").isel(layer=0, magnitude=0)
    assert found.tokens.values.tolist() == [2, 2, 2]
    assert found.hits.values.tolist() == [2, 2, 2]
    assert found.features.values.tolist() == [1, 2, 2]
    assert found.outlier_features.values.tolist() == [1, 0, 0]
