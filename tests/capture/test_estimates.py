"""Estimates against what captures come to: bytes of stores, for every architecture and encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from capture.estimates import store_bytes as estimated_bytes
from schemas import ENCODINGS, Run
from schemas.layout import plan_arrays
from schemas.run import store_bytes
from tests.checkpoints import ARCHITECTURES

WITHIN = 0.15


def planned(run: Run) -> int:
    """What is estimated for a store of such arrays as ``run`` has."""
    sites = {name: site.norm for name, site in run.info.sites.items() if site.alias is None and site.norm is not None}
    names = [name for name, site in run.info.sites.items() if site.alias is None]
    dimensions = replace(
        run.dimensions,
        ranks=run.array("expert_id").shape[-1] if "expert_id" in run else 0,
        experts=run.array("expert_peak").shape[-1] if "expert_peak" in run else 0,
    )
    arrays = plan_arrays(dimensions, names, ENCODINGS[run.info.bits], norms=sites)
    return estimated_bytes(arrays)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bytes_of_a_store(name: str, captured: Callable[..., Run]) -> None:
    run = captured(name)
    assert planned(run) == pytest.approx(store_bytes(run.path), rel=WITHIN)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_bytes_of_a_store_in_other_dtypes(name: str, dtype: str, captured: Callable[..., Run]) -> None:
    run = captured(name, dtype=dtype)
    assert planned(run) == pytest.approx(store_bytes(run.path), rel=WITHIN)
