"""The Python interface: one answer whichever way it is asked, kept or read anew, and what it refuses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import analyze
from analyze import answer, ask, null, open_run, outliers, render, saturation, statistics, sweep
from analyze.quantities import magnitude_words
from analyze.resources import Resources
from analyze.statistics.cache import cache_folders
from analyze.thresholds import known_survival
from analyze.thresholds.asking import sweep_dataset
from analyze.thresholds.peaks import PeakSource
from analyze.thresholds.plan import Plan
from analyze.thresholds.survival import Survival, take_survival
from schemas.errors import InputError, StoreError
from schemas.run import Run
from schemas.run_writer import RunWriter
from tests.analyze.oracle import expected
from tests.analyze.worlds import PRESETS, SHARES, World, stored, worlds
from tests.stores import write_store

MAGNITUDES = ["1e-40", "2", "5.97", "6", "6.001", "8.5", "65504", "1e39"]


def test_the_public_names_are_there() -> None:
    for name in analyze.__all__:
        assert getattr(analyze, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'outlier'"):
        _ = analyze.outlier


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(worlds(), st.sampled_from(PRESETS), st.sampled_from(SHARES), st.sampled_from(SHARES))
def test_a_kept_sweep_says_what_a_pass_says(world: World, preset: str, layers: str, positions: str) -> None:
    with stored(world) as (path, _):
        knobs = {"definition": preset, "layers": layers, "positions": positions}
        anew = sweep_dataset(answer(path, ask(",".join(MAGNITUDES), **knobs)))  # type: ignore[arg-type]
        for _ in range(2):
            xr.testing.assert_identical(sweep(path, MAGNITUDES, **knobs), anew.assign_attrs(store=str(path)))
        unlisted = answer(path, ask(",".join(MAGNITUDES), **knobs), features=False)  # type: ignore[arg-type]
        xr.testing.assert_identical(sweep_dataset(unlisted), anew)


@settings(deadline=None, max_examples=25)
@given(worlds(finite=True), st.sampled_from(PRESETS), st.sampled_from(["1e-30", "2", "6", "8.5"]))
def test_outliers_are_those_of_the_oracle(world: World, preset: str, magnitude: str) -> None:
    with stored(world) as (path, values):
        true = expected(values, preset, Fraction(magnitude), Fraction(1, 4), Fraction("0.06"), world.sequences)
        found = outliers(path, magnitude, definition=preset, details=True)
        assert int(found.outliers) == found.sizes["unit"] == len(true.units)
        assert int(found.unique_features) == true.unique
        assert found.outliers_by_sequence.values.tolist() == true.by_sequence
        assert found.feature.values.tolist() == [unit.feature for unit in true.units]
        for name, of in (("critical_magnitude", "critical"), ("peak", "peak"), ("layer_percent", "layer_percent")):
            assert found[name].values.tolist() == [getattr(unit, of) for unit in true.units]
        assert found.hits.values.tolist() == [unit.hits for unit in true.units]
        assert ("sequence" in found.coords) == (preset == "moe-table")
        assert math.isnan(found.mean_layer_percent) == (true.mean_layers is None)


def test_a_changed_store_is_read_again(tmp_path: Path) -> None:
    values = np.full((2, 2, 4, 3), 7, np.float32)
    write_store(tmp_path / "run.zarr", {"ln_attn": values}, complete=False)
    assert sweep(tmp_path / "run.zarr", 6, partial=True).outliers.values.tolist() == [3]
    writer = RunWriter(tmp_path / "run.zarr")
    for name, index in (("ln_attn", (1, 1)), ("ln_attn_layer_peak", (1, 1)), ("ln_attn_position_peak", (1,))):
        whole = writer.array(name)[index]
        writer.write(name, index, np.full(np.shape(whole), 0x40E0, np.uint16))
    writer.write("ln_attn_nonfinite", (1, 1), np.zeros((), np.uint64))
    writer.commit([1], [1])
    assert sweep(tmp_path / "run.zarr", 6, partial=True).outliers.values.tolist() == [6]


def test_a_store_is_known_by_its_files_and_not_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One repaired in place, and another one of the same relative path: each answered as a pass over it answers."""
    values = np.random.default_rng(0).normal(0, 5, (3, 2, 8, 6)).astype(np.float32)
    for folder, scale in (("a", 1), ("b", 0.5)):
        write_store(tmp_path / folder / "run.zarr", {"ln_attn": values * np.float32(scale)})
    taken: list[Plan] = []

    def counted(plan: Plan, source: PeakSource) -> Survival:
        taken.append(plan)
        return take_survival(plan, source)

    monkeypatch.setattr(known_survival, "take_survival", counted)

    def swept(folder: str) -> list[int]:
        monkeypatch.chdir(tmp_path / folder)
        time.sleep(0.15)  # a store that changed just now may change again within a tick of its clock
        found = sweep("run.zarr", "2:9:1").outliers.values.tolist()
        assert found == [result.outliers for result in answer("run.zarr", ask("2:9:1"))]
        return found

    first, second = swept("a"), swept("b")
    assert first != second
    for name in ("ln_attn_layer_peak", "ln_attn_position_peak"):
        for file in (tmp_path / "b/run.zarr" / name).glob("c.*"):
            (tmp_path / "a/run.zarr" / name / file.name).write_bytes(file.read_bytes())
    assert swept("a") == second
    assert len(taken) == 3
    for found in (sweep("run.zarr", 6), sweep(tmp_path / "a" / "run.zarr", 7)):
        assert found.outliers.values[0] == second[int(found.magnitude[0]) - 2]
    assert len(taken) == 3
    sweep("run.zarr", 6, resources=Resources(cache=False))
    assert len(taken) == 4


def test_passes_of_a_sweep_are_given_their_resources(tmp_path: Path) -> None:
    """Memory, progress and what to do about damage, as the questions beside it are."""
    store = tmp_path / "run.zarr"
    write_store(store, {"ln_attn": np.full((3, 2, 8, 6), 7, np.float32)})
    (store / "ln_attn/c.1.0.0.0").write_bytes(b"damaged")
    shown: list[str] = []

    def progress(sequences: Iterable[int], label: str, _: str = "") -> Iterable[int]:
        shown.append(label)
        return sequences

    for question in (outliers, sweep):
        with pytest.raises(InputError, match="--memory-limit 1 KB is too small"):
            question(store, 6, engine="slices", resources=Resources(memory_limit=1000))
        found = question(store, 6, engine="slices", progress=progress, resources=Resources(skip_corrupt=True))
        assert shown.pop() == "slices"
        (told,) = found.excluded
        assert "layer 1, sequence 0" in told
        assert "excluded" not in question(store, 6).attrs


def test_shares_may_be_numbers(noisy_store: Path) -> None:
    for number, text in (
        (0.25, "25%"),
        (Fraction(1, 3), "1/3"),
        (Decimal("0.07"), "7%"),
        (1, "100%"),
        (1e-5, "0.001%"),
    ):
        assert ask("6", layers=number).layers.value == ask("6", layers=text).layers.value
        assert ask("6", positions=number).positions.value == ask("6", positions=text).positions.value
    told, asked = outliers(noisy_store, 6, layers="0.25", positions="6%"), outliers(noisy_store, 6, layers=0.25)
    xr.testing.assert_identical(asked, told)
    strange = (25, 0, -0.25, float("nan"), float("inf"), True, None, [0.25], 10**400, Decimal("1e99999999"), np.inf)
    for wrong in strange:
        with pytest.raises(InputError, match="--layers"):
            ask("6", layers=wrong)  # type: ignore[arg-type]


def test_sites_may_be_a_tuple_and_ranges_are_text(noisy_store: Path) -> None:
    assert ask("6", sites=("ln_attn", "ln_mlp")) == ask("6", sites="ln_attn,ln_mlp")
    for flag, knobs in (
        ("--layers-range", {"layers_range": (1, 3)}),
        ("--positions-range", {"positions_range": (1, 3)}),
    ):
        with pytest.raises(InputError, match=rf"{flag} .* is not a range"):
            outliers(noisy_store, 6, **knobs)
    for none in ((), ("ln_attn", "")):
        with pytest.raises(InputError, match=r"--sites .* empty name"):
            ask("6", sites=none)


@pytest.mark.parametrize("definition", ["moe-table", "llm-int8", "llm-int8-block"])
def test_counts_are_kept_beside_the_very_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, definition: str
) -> None:
    values = np.random.default_rng(0).normal(0, 4, (2, 3, 4, 6)).astype(np.float32)
    store = tmp_path / "run.zarr"
    write_store(store, {"ln_attn": values, "ln_mlp": values[::-1]})
    time.sleep(0.15)  # a store that changed just now may change again within a tick of its clock
    taken: list[Plan] = []

    def counted(plan: Plan, source: PeakSource) -> Survival:
        taken.append(plan)
        return take_survival(plan, source)

    monkeypatch.setattr(known_survival, "take_survival", counted)

    def agrees(magnitudes: str, cache: bool = True) -> xr.Dataset:
        question = ask(magnitudes, definition=definition)
        found = sweep_dataset(answer(store, question, resources=Resources(cache=cache), features=False))
        xr.testing.assert_identical(found, sweep_dataset(answer(store, question)))
        return found

    agrees("5")
    assert not taken
    assert not known_files(store)
    before = agrees("0:9:1")
    agrees("5")
    agrees("0.5:9:0.01")
    assert len(taken) == 1
    assert len(known_files(store)) == 1
    agrees("0:9:1", cache=False)
    assert len(taken) == 2
    RunWriter(store).write("ln_attn_layer_peak", (slice(None), 1), np.zeros((2, 6), np.uint16))
    time.sleep(0.15)
    assert not agrees("0:9:1").identical(before)
    assert len(taken) == 3
    assert len(known_files(store)) == 1


def known_files(store: Path) -> list[Path]:
    folder = next(cache_folders(str(store)))
    return list(folder.iterdir()) if folder.exists() else []


def test_units_that_were_not_asked_for_are_not_listed(noisy_store: Path) -> None:
    (*_, last) = answer(noisy_store, ask("2:9:0.5"), features=False)
    assert not list(last.features(0))
    with pytest.raises(ValueError, match="the units are not known"):
        next(last.features())


def test_a_run_may_be_given_as_path_dataset_or_run(noisy_store: Path) -> None:
    asked = [noisy_store, str(noisy_store), Run(noisy_store), open_run(noisy_store), open_run(noisy_store, chunks={})]
    first, *others = [sweep(run, [6, 8]) for run in asked]
    for other in others:
        xr.testing.assert_equal(first, other)


def test_a_selection_is_refused(noisy_store: Path) -> None:
    run = open_run(noisy_store)
    with pytest.raises(InputError, match=r"names no run|has 1 of the 4 sequences"):
        outliers(run.isel(sequence=slice(0, 1)))
    selected = run.isel(sequence=slice(0, 1))
    selected.encoding["source"] = str(noisy_store)
    with pytest.raises(InputError, match="has 1 of the 4 sequences of"):
        outliers(selected)
    with pytest.raises(InputError, match="a Dataset that open_run did not return"):
        outliers(xr.Dataset())
    twice = run.assign(ln_attn=run.ln_attn * 2)
    for altered in (twice, run * 2):
        altered.encoding["source"] = str(noisy_store)
        with pytest.raises(
            InputError, match=r"^(ln_attn|committed) of this Dataset is not as .* but computed or assigned"
        ):
            outliers(altered)
    with pytest.raises(InputError, match=r"the features of .* in another order"):
        outliers(run.isel(feature=slice(None, None, -1)).assign_attrs(run.attrs))
    assert int(outliers(run.load().assign(mine=run.ln_attn * 2)).outliers) == int(outliers(noisy_store).outliers)


def test_what_cannot_be_asked(noisy_store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="answers one magnitude, not 2"):
        outliers(noisy_store, "6,8")
    with pytest.raises(InputError, match="no definition is called"):
        sweep(noisy_store, 6, definition="mine")
    with pytest.raises(InputError, match="no magnitudes"):
        sweep(noisy_store, [])
    with pytest.raises(InputError, match="negative"):
        sweep(noisy_store, [-1.0])
    with pytest.raises(InputError, match="1/3 is no decimal"):
        sweep(noisy_store, Fraction(1, 3))
    with pytest.raises(StoreError, match="does not exist"):
        sweep(tmp_path / "none.zarr")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (lambda run: statistics(run, "moments", layers=()), r"layers=\(\) chooses none"),
        (lambda run: statistics(run, "moments", sequences=()), r"sequences=\(\) chooses none"),
        (lambda run: statistics(run, "moments", sites=()), r"sites=\(\) chooses none"),
        (lambda run: statistics(run, "moments", sequences=(0, 0)), r"sequences=\(0, 0\) has 0 twice: name each once"),
        (lambda run: statistics(run, "moments", sites=("ln_attn",) * 2), "has 'ln_attn' twice"),
        (lambda run: statistics(run, "moments", sites="ln_attn"), r"is no list of sites: write sites=\('ln_attn',\)"),
        (lambda run: statistics(run, "moments", layers=1), r"layers=1 is no list of layers: write layers=\(1,\)"),
        (lambda run: statistics(run, "moments", layers=[0.5]), "has 0.5, which is no whole number"),
        (lambda run: statistics(run, "moments", positions=(3,)), r"is no pair: write positions=\(START, STOP\)"),
        (lambda run: statistics(run, "moments", threads=-1), "threads=-1 is too few: give at least 1"),
        (lambda run: statistics(run, {"magnitudes": {"probabilities": ("abc",)}}), "quantile at 'abc' is no decimal"),
        (lambda run: statistics(run, {"exceedances": {"magnitudes": ("1/3",)}}), "magnitude '1/3' is no decimal"),
        (lambda run: statistics(run, {"exceedances": {"magnitudes": ("-1",)}}), "no magnitude -1: it is 0 or more"),
        (lambda run: statistics(run, {"exceedances": {"magnitudes": "12"}}), "magnitudes='12' is no list of them"),
        (lambda run: statistics(run, {"quantisation": {"formats": ("mxfp9",)}}), "nearest: mxfp4"),
        (lambda run: statistics(run, {"quantisation": {"group_size": 0}}), "group_size=0 is no number of features"),
        (lambda run: statistics(run, [6]), "6 is no statistic: give its name"),
        (lambda run: statistics(run, "moments", memory_limit="1GB"), "memory_limit='1GB' is no whole number"),
        (lambda run: statistics(run, "moments", scheduler=8786), "scheduler=8786 is no address"),
        (lambda run: null(run, permutations=2.5), "permutations=2.5 is no whole number: give from 1"),
        (lambda run: saturation(run, orders="10"), "orders='10' is no whole number"),
        (lambda run: null(run, seed=-1), "seed -1 is not one: give a whole number from 0"),
        (lambda run: saturation(run, seed=0.5), "seed 0.5 is not one"),
        (lambda run: render([], "foo"), "no output format is called 'foo'; there are: table, json"),
    ],
)
def test_what_is_no_number_of_anything(noisy_store: Path, asked: Callable[[Path], object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        asked(noisy_store)


def test_magnitudes_are_taken_exactly() -> None:
    assert magnitude_words(np.arange(2, 3, 0.5)) == "2.0,2.5"
    assert magnitude_words([0.1, Decimal("0.10"), Fraction(1, 10), np.int64(3)]) == "0.1,0.10,0.1,3"
    assert ask(magnitude_words(0.1)).magnitudes == (Fraction(1, 10),)


@settings(deadline=None, max_examples=12)
@given(worlds())
def test_magnitude_zero_beside_nan_is_refused_both_ways(world: World) -> None:
    with stored(world) as (path, values):
        strange = any(not np.isfinite(site).all() for site in values)
        if not strange:
            assert int(sweep(path, 0).outliers[0]) == len(world.sequences) * values[0].shape[3]
            return
        for definition in ("moe-table", "majority"):
            with pytest.raises(InputError, match="--magnitude 0 cannot be answered"):
                sweep(path, 0, definition=definition)


def test_statistics_are_asked_by_name_whatever_was_imported(noisy_store: Path) -> None:
    import analyze.measured
    import analyze.statistics.registry
    from analyze import statistics

    asked: dict[str, dict[str, object]] = {"exceedances": {"magnitudes": ("6",)}, "moments": {}}
    for call in (statistics, analyze.statistics, analyze.measured.statistics):
        found = call(noisy_store, asked, sites=("ln_attn",), cache=False)
        assert set(found) == set(asked)
        assert found["exceedances"].site.values.tolist() == ["ln_attn"]
    asked["exceedances"] = {"magnitudes": [6, 6.1]}
    some = statistics(noisy_store, asked, layers=[1, 0], positions=[1, None], cache=False)
    assert some["moments"].layer.values.tolist() == [1, 0]
    assert some["exceedances"].magnitude.values.tolist() == ["6", "6.1"]
    with pytest.raises(InputError, match="no statistic is called 'moment'; did you mean moments"):
        statistics(noisy_store, "moment")
    with pytest.raises(InputError, match="statistic exceedances: missing 1 required"):
        statistics(noisy_store, ["exceedances"])
