"""What the plan of a pass takes a statistic's partials for is at least what they are, for every statistic there is."""

from __future__ import annotations

import numpy as np
import pytest

from analyze.criteria import criterion_names, load_criterion
from analyze.quantisation.statistic import Quantisation
from analyze.statistics.cells import CellReader
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.expert_hits import ExpertHits
from analyze.statistics.feature_hits import FeatureHits
from analyze.statistics.layer_units import LayerLevels, LayerUnitHits, UnitPositionPeaks
from analyze.statistics.position_hits import PositionHits
from analyze.statistics.registry import STATISTICS
from analyze.statistics.selection import Selection, choose
from analyze.statistics.statistic import Reduction
from analyze.statistics.tensors import find_tensors
from schemas.provenance import NormInfo
from schemas.run import Run
from tests.stores import write_store

ROWS, FEATURES, EXPERTS = 96, 80, 4
MAGNITUDES = ("1", "2", "6")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("stores") / "wide.zarr"
    random = np.random.default_rng(5)
    shape = (2, 1, ROWS, FEATURES)
    values = {site: (random.standard_t(2, shape) * 50).astype(np.float32) for site in ("ln_attn", "ln_mlp")}
    norm = NormInfo(kind="rms", modules=["norm", "norm"], eps=1e-6)
    beside = {
        "expert_id": random.integers(0, EXPERTS, (2, 1, ROWS, 2)).astype(np.uint16),
        "expert_weight": np.full((2, 1, ROWS, 2), 0.5, np.float32),
        "expert_peak": np.ones((2, 1, EXPERTS), np.float32),
    }
    for site in values:
        beside[f"{site}_rms"] = np.ones((2, 1, ROWS), np.float32)
        beside[f"{site}_gain"] = np.ones((2, FEATURES), np.float32)
    write_store(path, values, norms=dict.fromkeys(values, norm), beside=beside, model={"experts": EXPERTS})
    return Run(path)


def reductions(run: Run) -> list[Reduction]:
    """Every one that a question makes."""
    made: list[Reduction] = [
        Exceedances(MAGNITUDES),
        FeatureHits(3, "1"),
        PositionHits(MAGNITUDES, ROWS),
        ExpertHits(MAGNITUDES, EXPERTS),
        Quantisation(),
        LayerUnitHits((), (16000, 16500)),
        LayerUnitHits(("ln_mlp",), (16000, 16500)),
        LayerLevels(("ln_mlp",)),
        UnitPositionPeaks(("ln_mlp",)),
    ]
    asked = {one.name for one in made}
    made += [statistic() for name, statistic in STATISTICS.items() if name not in asked]
    criteria = [load_criterion(name) for name in criterion_names()]
    tensors, _ = find_tensors(run, choose(run), ("residual", "norm output"))
    kinds = {one.statistic for one in criteria if one.statistic is not None}
    return made + [kind(tensors) for kind in sorted(kinds, key=lambda kind: kind.name)]


@pytest.mark.parametrize("in_gain_units", [False, True])
def test_no_partial_is_larger_than_the_plan_takes_it_for(run: Run, in_gain_units: bool) -> None:
    reader = CellReader(run, choose(run, Selection(in_gain_units=in_gain_units)))
    checked = set()
    for reduction in reductions(run):
        pieces = [reader.piece("ln_mlp", "ln_mlp", layer, 0) for layer in (0, 1)]
        partials = [reduction.chunk(piece) for piece in pieces]
        if "sequence" not in reduction.keeps:
            partials.append(reduction.combine(*partials))
        for partial in partials:
            size = sum(np.asarray(value).nbytes for value in partial.values())
            assert 0 < size <= reduction.partial_bytes(ROWS, FEATURES), reduction.name
        checked.add(reduction.name)
    assert checked >= set(STATISTICS)
    assert len(checked) > 15
