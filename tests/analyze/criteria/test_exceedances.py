"""Hits by layer, position and expert against counts of one value at a time."""

from __future__ import annotations

import itertools
import math
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze import quantisation_errors, statistics
from analyze.evaluation.criterion_tables import asked_tables
from analyze.evaluation.evaluate import evaluate_criteria
from analyze.evaluation.exceedances import exceedances_by
from analyze.statistics.selection import Selection
from schemas.errors import InputError, StoreError
from schemas.provenance import NormInfo
from tests.analyze.criteria.mixture import EXPERTS, LAYERS, SEQUENCES, Made, make_mixture
from tests.analyze.test_knobs import write
from tests.analyze.worlds import World, stored, worlds
from tests.stores import write_store

Array = npt.NDArray[Any]

MAGNITUDES = ("0", "2", "6", "6.001", "100")


def reaches(values: Array, magnitude: str) -> Array:
    """Same shape: one comparison of fractions a value."""
    hits = [
        not math.isnan(v) and (math.isinf(v) or abs(Fraction(v)) >= Fraction(magnitude))
        for v in values.ravel().tolist()
    ]
    return np.reshape(hits, values.shape)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_mixture(tmp_path_factory.mktemp("mixture") / "m.zarr", position_chunk=4)


@pytest.mark.parametrize("minimum", ["1", "3", "40%"])
def test_a_feature_is_hit_with_so_many_hits(mixture: Made, minimum: str) -> None:
    def needed(tokens: int) -> int:
        return int(minimum) if minimum.isdigit() else max(1, math.ceil(Fraction(40, 100) * tokens))

    by_layer = exceedances_by(mixture.path, "layer", "2", minimum_hits=minimum).isel(magnitude=0)
    by_expert = exceedances_by(mixture.path, "expert", "2", minimum_hits=minimum).isel(magnitude=0)
    for layer in range(LAYERS):
        for site, values in mixture.sites.items():
            hits = reaches(values[layer], "2").sum(axis=(0, 1))
            told = (hits >= needed(values[layer, ..., 0].size)).sum()
            assert int(by_layer.features.sel(site=site, layer=layer)) == told
        for expert in range(EXPERTS):
            given_to = (mixture.beside["expert_id"][layer] == expert).any(axis=-1)
            hits = reaches(mixture.sites["ln_mlp"][layer], "2")[given_to].sum(axis=0)
            assert int(by_expert.features.sel(layer=layer, expert=expert)) == (hits >= needed(given_to.sum())).sum()


@settings(max_examples=10, deadline=None)
@given(worlds())
def test_by_layer_and_by_position(world: World) -> None:
    with stored(world) as (path, held):
        by_layer = exceedances_by(path, "layer", ",".join(MAGNITUDES))
        by_position = exceedances_by(path, "position", ",".join(MAGNITUDES))
    for (i, values), (k, magnitude) in itertools.product(enumerate(held), enumerate(MAGNITUDES)):
        hits = reaches(values, magnitude)
        cell = by_layer.isel(site=i, magnitude=k)
        assert cell.hits.values.tolist() == hits.sum(axis=(1, 2, 3)).tolist()
        assert cell.tokens.values.tolist() == hits.any(axis=3).sum(axis=(1, 2)).tolist()
        assert cell.features.values.tolist() == hits.any(axis=(1, 2)).sum(axis=1).tolist()
        assert (cell["values"] == values[0].size).all()
        assert (by_position.isel(site=i, magnitude=k).hits.values == hits.sum(axis=(1, 3))).all()
    assert (by_position.rows == held[0].shape[1]).all()
    assert (by_position.hits.sum("position") == by_layer.hits).all()


@settings(max_examples=10, deadline=None)
@given(worlds(), st.booleans())
def test_by_layer_and_by_position_of_blocks(world: World, gained: bool) -> None:
    """Value by value the largest of the sites, in loops; one site alone is its cells."""
    shape = next(iter(world.sites.values())).shape
    random = np.random.default_rng(shape)
    gains = {name: random.choice(np.array([2, -0.5, 4], np.float32), (shape[0], shape[3])) for name in world.sites}
    selection = Selection(in_gain_units=gained)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.zarr"
        held = write(path, world, np.zeros(shape[1:3], np.uint8), gains)
        found, by_position = (
            exceedances_by(path, by, ",".join(MAGNITUDES), selection, layer_unit="block")
            for by in ("layer", "position")
        )
        for by in ("layer", "position"):
            one = replace(selection, sites=("ln_attn",))
            block, cell = (exceedances_by(path, by, "2,6", one, layer_unit=unit) for unit in ("block", "cell"))
            xr.testing.assert_equal(block, cell)
    assert found.site.values.tolist() == ["+".join(world.sites)]
    tensors = []
    for name, values in held.items():
        divisor = gains[name].astype(np.float64)[:, None, None, :]
        with np.errstate(over="ignore"):
            tensors.append(np.abs((values / divisor).astype(np.float32) if gained else values))
    block = np.fmax.reduce(tensors)
    for k, magnitude in enumerate(MAGNITUDES):
        hits = reaches(block, magnitude)
        cell = found.isel(site=0, magnitude=k)
        assert cell.hits.values.tolist() == hits.sum(axis=(1, 2, 3)).tolist()
        assert cell.tokens.values.tolist() == hits.any(axis=3).sum(axis=(1, 2)).tolist()
        assert cell.features.values.tolist() == hits.any(axis=(1, 2)).sum(axis=1).tolist()
        assert (cell["values"] == block[0].size).all()
        assert (by_position.isel(site=0, magnitude=k).hits.values == hits.sum(axis=(1, 3))).all()
    for layer, q in itertools.product(range(shape[0]), range(shape[1])):
        known = np.sort(block[layer, q][~np.isnan(block[layer, q])].astype(np.float64))
        if shape[1] == 1 and known.size:
            assert float(found.top[0, layer, 0]) == known[-1]
            middle = (known[(known.size - 1) // 2] + known[known.size // 2]) / 2
            assert float(found["median"][0, layer]) == middle


def test_blocks_by_hand_and_where_there_are_none(tmp_path: Path, mixture: Made) -> None:
    """Two sites, (7, 2) and (1, -8) at one token, (0, 0) and (6, 0) at the other: 3 hits of 4 at 6, at two tokens."""
    sites = {"ln_attn": [[7, 2], [0, 0]], "ln_mlp": [[1, -8], [6, 0]]}
    write_store(tmp_path / "run.zarr", {s: np.array(v, np.float32).reshape(1, 1, 2, 2) for s, v in sites.items()})
    by_layer = exceedances_by(tmp_path / "run.zarr", "layer", layer_unit="block", minimum_hits=2)
    found = by_layer.isel(site=0, layer=0, magnitude=0)
    assert (int(found.hits), int(found.tokens), int(found.features), int(found["values"])) == (3, 2, 1, 4)
    assert (found.top.values.tolist(), float(found["median"])) == ([8.0, 7.0, 6.0], 6.5)
    with pytest.raises(InputError, match="--by expert is about ln_mlp alone, so that a block is that one tensor"):
        exceedances_by(mixture.path, "expert", layer_unit="block")
    with pytest.raises(StoreError, match="stores no gain for ln_attn of layer 0"):
        exceedances_by(tmp_path / "run.zarr", "layer", "6", Selection(in_gain_units=True), layer_unit="block")
    (table,) = asked_tables([tmp_path / "run.zarr"], by="position", layer_unit="block")
    assert table.notes[-1].startswith("Blocks: a layer's tensors at these sites are one")
    assert table.rows[0][3] == "ln_attn+ln_mlp"


def test_the_largest_by_layer_are_those_of_the_criterion(mixture: Made) -> None:
    by_layer = exceedances_by(mixture.path, "layer")
    top = evaluate_criteria(mixture.path, "top-values")["top-values"]
    for site in mixture.sites:
        assert (by_layer["median"].sel(site=site) == top.middle.sel(tensor=site)).all()
        assert (by_layer.top.sel(site=site, place=0) == top["first"].sel(tensor=site)).all()


def test_a_part_of_the_positions(mixture: Made) -> None:
    found = exceedances_by(mixture.path, "position", "2", Selection(positions=(3, 7), sites=("ln_mlp",)))
    hits = reaches(mixture.sites["ln_mlp"], "2").sum(axis=(1, 3))
    hits[:, [0, 1, 2, 7, 8, 9]] = 0
    assert (found.hits.values[0, :, :, 0] == hits).all()
    assert found.rows.values[0, 0].tolist() == [0, 0, 0, *[SEQUENCES] * 4, 0, 0, 0]
    again = exceedances_by(mixture.path, "position", [Fraction(2)], Selection(positions=(3, 7), sites=("ln_mlp",)))
    assert again.identical(found)


def test_in_units_of_gain(mixture: Made) -> None:
    found = exceedances_by(mixture.path, "layer", "0.05", Selection(in_gain_units=True))
    for site, values in mixture.sites.items():
        scaled = (values.astype(np.float64) / mixture.beside[f"{site}_gain"][:, None, None, :]).astype(np.float32)
        assert found.hits.sel(site=site).values[:, 0].tolist() == reaches(scaled, "0.05").sum(axis=(1, 2, 3)).tolist()


@pytest.mark.parametrize("gain", [0.0, math.inf, math.nan])
def test_a_gain_that_divides_nothing_is_refused(tmp_path: Path, gain: float) -> None:
    """In any grouping, and of any tensor of a block; not where its layer or its site is not asked for."""
    made = make_mixture(tmp_path / "g.zarr", odd_gain=gain)
    told, in_gain = f"that of ln_mlp of layer 2 is {gain:g} at feature 5", Selection(in_gain_units=True)
    asked = [("layer", "cell"), ("position", "cell"), ("expert", "cell"), ("layer", "block"), ("position", "block")]
    for by, unit in asked:
        with pytest.raises(InputError, match=told):
            exceedances_by(made.path, by, "2", in_gain, layer_unit=unit)
        exceedances_by(made.path, by, "2", replace(in_gain, layers=(0, 1, 3)), layer_unit=unit)
        exceedances_by(made.path, by, "2", layer_unit=unit)
    exceedances_by(made.path, "layer", "2", replace(in_gain, sites=("ln_attn",)))
    with pytest.raises(InputError, match=told):
        statistics(made.path, {"exceedances": {"magnitudes": ("2",)}}, in_gain_units=True)
    with pytest.raises(InputError, match=told):
        quantisation_errors(made.path, "mxfp4", in_gain)


def test_the_floor_of_a_block_is_that_of_its_smallest_gain(tmp_path: Path) -> None:
    """1 / 0.25 reaches 2, at the second site alone; slices that keep 1.5 and more do not know it."""
    values = {"ln_attn": np.full((1, 1, 2, 2), 3, np.float32), "ln_mlp": np.full((1, 1, 2, 2), 1, np.float32)}
    gains = {"ln_attn_gain": np.full((1, 2), 4, np.float32), "ln_mlp_gain": np.full((1, 2), 0.25, np.float32)}
    norms = {site: NormInfo(kind="rms", eps=1e-6, gain="weight", modules=["norm"]) for site in values}
    for name, more in (("whole", {}), ("floor", {"floor": "1.5"})):
        write_store(tmp_path / f"{name}.zarr", values, beside=gains, norms=norms, **more)
    in_gain = Selection(in_gain_units=True)
    assert int(exceedances_by(tmp_path / "whole.zarr", "layer", "2", in_gain, layer_unit="block").hits.sum()) == 4
    for by in ("layer", "position"):
        with pytest.raises(StoreError, match=r"in units of a gain of 0.25, which are 0.5, .* --keep floor=1.5"):
            exceedances_by(tmp_path / "floor.zarr", by, "2", in_gain, layer_unit="block")


@pytest.mark.parametrize("share", ["6%", "50%", "100%"])
def test_by_expert(mixture: Made, share: str) -> None:
    found = exceedances_by(mixture.path, "expert", "1,2,4", positions=share)
    values, ids = mixture.sites["ln_mlp"], mixture.beside["expert_id"]
    for layer, expert, (k, magnitude) in itertools.product(range(LAYERS), range(EXPERTS), enumerate(("1", "2", "4"))):
        own = (ids[layer] == expert).any(axis=-1)
        hits = reaches(values[layer][own], magnitude)
        cell = found.isel(layer=layer, expert=expert, magnitude=k)
        assert cell.tokens == own.sum()
        assert cell.hits == hits.sum()
        assert cell.features == hits.any(axis=0).sum()
        needed = Fraction(share.rstrip("%")) / 100 * int(own.sum())
        outliers = [int(n) for n in hits.sum(axis=0) if own.any() and n >= needed]
        assert cell.outlier_features == len([n for n in outliers if n])
    assert not found.tokens.sel(layer=0).any()
    assert not found.tokens.sel(expert=5).any()


def test_what_cannot_be_grouped(mixture: Made, tmp_path: Path) -> None:
    values = {"ln_mlp": np.ones((1, 1, 4, 3), np.float32)}
    write_store(tmp_path / "dense.zarr", values)
    with pytest.raises(StoreError, match=r"--by expert reads expert_id, .* the model has no experts"):
        exceedances_by(tmp_path / "dense.zarr", "expert")
    with pytest.raises(InputError, match=r"--by expert is about ln_mlp, .* leave out --sites ln_attn"):
        exceedances_by(mixture.path, "expert", "6", Selection(sites=("ln_attn",)))
    with pytest.raises(InputError, match="--by 'head' is not known; there are: layer, position, expert"):
        exceedances_by(mixture.path, "head")
    with pytest.raises(InputError, match="--positions '0%' is nothing"):
        exceedances_by(mixture.path, "expert", positions="0%")


def test_stores_that_kept_less(tmp_path: Path) -> None:
    whole = make_mixture(tmp_path / "whole.zarr")
    floor = make_mixture(tmp_path / "floor.zarr", floor="2")
    peaks = make_mixture(tmp_path / "peaks.zarr", slices=False)
    for by in ("layer", "position", "expert"):
        with pytest.raises(StoreError, match=rf"--magnitude 1.5 is below 2, .* which --by {by} reads"):
            exceedances_by(floor.path, by, "4,1.5")
        with pytest.raises(StoreError, match=rf"--by {by} reads slices, .* --keep slices"):
            exceedances_by(peaks.path, by)
        assert (exceedances_by(floor.path, by, "2,4").hits == exceedances_by(whole.path, by, "2,4").hits).all()
        below = exceedances_by(floor.path, by, "1.999")  # no stored value lies between: the one that reaches it is 2
        assert (below.hits.values == exceedances_by(whole.path, by, "2").hits.values).all()
    in_gain, low = Selection(in_gain_units=True), make_mixture(tmp_path / "low.zarr", floor="0.5")
    for by in ("layer", "position", "expert"):
        with pytest.raises(
            StoreError, match=r"needs values from 0.6 on in units of a gain of .*captured with --keep floor"
        ):
            exceedances_by(low.path, by, "0.6", in_gain)
        unit = "cell" if by == "expert" else "block"
        big, small = (exceedances_by(m.path, by, "1.05", in_gain, layer_unit=unit) for m in (low, whole))
        assert (big.hits == small.hits).all()
        assert small.hits.any()
    assert "median" in exceedances_by(whole.path, "layer", "2")
    assert "median" not in exceedances_by(floor.path, "layer", "2")
