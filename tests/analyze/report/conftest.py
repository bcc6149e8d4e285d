"""One browser for all tests of pages, and the pages that they look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from analyze import overview
from analyze.report.writing import write_report
from tests.browser import Browser, chromium
from tests.stores import write_store

HOSTILE = "</script><script>alert(\"x\")</script><b>\u202ereversed</b> \u2028 & 'quoted' <!--"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium; where there is none tests that need it are skipped, but not where CHROMIUM=required."""
    program = chromium()
    if program is None:
        reason = "there is no Chromium here; on Debian: sudo apt install chromium"
        if os.environ.get("CHROMIUM") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    opened = Browser(program, tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def compared_stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two stores, one of a model and tokens with hostile names, one of float16 with peaks alone."""
    folder = tmp_path_factory.mktemp("compared")
    random = np.random.default_rng(11)
    shape = (4, 4, 30, 16)
    values = {site: (random.standard_t(3, shape) * 2).astype(np.float32) for site in ("ln_attn", "ln_mlp")}
    values["ln_attn"][..., 3] += 9
    values["ln_mlp"][:, :, 0, 5] += 40
    experts = random.integers(0, 4, (*shape[:3], 2)).astype(np.uint16)
    first, second = folder / "hostile.zarr", folder / "other.zarr"
    write_store(
        first,
        values,
        model={"name": HOSTILE, "experts": 4, "top_k": 2, "routing": "softmax"},
        beside={"expert_id": experts, "expert_weight": np.full(experts.shape, 0.5, np.float32)},
        token_text={0: HOSTILE},
    )
    halved = {site: array[:3, :, :25] * 0.7 for site, array in values.items()}
    write_store(second, halved, "float16", slices=False, model={"name": "other", "total_parameters": 10**9})
    return [first, second]


@pytest.fixture(scope="session")
def compared_page(compared_stores: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on both."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(overview(compared_stores, "2:14:0.5"), file)
    return file
