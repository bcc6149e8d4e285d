"""Between models: moves against the oracle, medians against NumPy, and notes wherever like is not with like."""

from __future__ import annotations

import csv
import io
import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze import answer, ask, compare, diff, emergence, null
from analyze.between.difference import diff as diff_runs
from analyze.between.emergence import FROM_PEAKS, FROM_SLICES, family_of
from analyze.between.tables import diff_tables, emergence_table
from analyze.formats import FORMATS
from analyze.statistics.feature_hits import FeatureHits
from analyze.statistics.measure import measure
from analyze.tables.likeness import comparison_notes
from analyze.thresholds.plan import make_plan
from schemas.errors import InputError, StoreError
from schemas.run import Run
from tests.analyze.conftest import Command
from tests.analyze.oracle import expected
from tests.analyze.worlds import ENCODINGS, PRESETS, World, stored, worlds
from tests.stores import changed_info, write_store

Array = npt.NDArray[Any]
Unit = tuple[int, ...]

LEAST = Fraction(1, 10**60)


def criticals(values: list[Array], preset: str, sequences: list[int]) -> dict[Unit, float]:
    """Critical magnitude of every unit that has one above zero, from the oracle's loops."""
    found = expected(values, preset, LEAST, Fraction(1, 4), Fraction("0.06"), sequences).units
    return {(u.feature,) if u.sequence is None else (u.sequence, u.feature): u.critical for u in found}


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(worlds(), st.sampled_from(PRESETS), st.sampled_from(("2", "6", "6.001")), st.integers(0, 2**32 - 1))
def test_a_difference_is_that_of_the_oracles_critical_magnitudes(
    world: World, preset: str, magnitude: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        moved = {
            name: np.where(random.random(site.shape) < 0.5, site, site * np.float32(1.25))
            for name, site in world.sites.items()
        }
    encoding = random.choice(ENCODINGS)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        stored(world) as (one, before),
        stored(World(moved, str(encoding), 3)) as (other, after),
    ):
        was, now = (criticals(values, preset, world.sequences) for values in (before, after))
        found = diff_runs(one, other, magnitude, definition=preset)
    least = Fraction(magnitude)
    met = {unit for unit in {*was, *now} if max(was.get(unit, 0), now.get(unit, 0)) >= least}
    names = ["sequence", "feature"] if preset == "moe-table" else ["feature"]
    units = list(zip(*(found[name].values.tolist() for name in names), strict=True))
    assert len(units) == len(set(units))
    assert set(units) == met
    for i, unit in enumerate(units):
        a, b = was.get(unit, 0.0), now.get(unit, 0.0)
        assert (found.critical_first.values[i], found.critical_second.values[i]) == (a, b)
        assert found.moved.values[i] == (0 if a == b else b - a)
        where = "both" if min(a, b) >= least else "first only" if a >= least else "second only"
        assert found.counts_in.values[i] == where
    assert found.outliers.values.tolist() == [sum(c >= least for c in side.values()) for side in (was, now)]
    assert int(found.both) + int(found.first_only) + int(found.second_only) == len(units)
    assert bool(found.all_equal) == (was == now)
    farthest = np.abs(found.moved.values)
    assert (farthest[:-1] >= farthest[1:]).all()


@pytest.mark.parametrize("engine", ["peaks", "slices"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_does_not_differ_from_itself(noisy_store: Path, preset: str, engine: str) -> None:
    found = diff(noisy_store, noisy_store, 6, definition=preset, engine=engine)
    (result,) = answer(noisy_store, ask("6", definition=preset))
    assert bool(found.all_equal)
    assert int(found.unmoved) == int(found.both) == result.outliers
    assert float(found.largest_move) == 0
    assert found.attrs["notes"] == []


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two stores that have all but their values in common: in the other, feature 3 is larger by half."""
    values = (np.random.default_rng(1).standard_t(3, (4, 3, 16, 8)) * 2).astype(np.float32)
    write_store(tmp_path / "a.zarr", {"ln_attn": values})
    values[..., 3] *= 1.5
    write_store(tmp_path / "b.zarr", {"ln_attn": values}, floor="3")
    return tmp_path / "a.zarr", tmp_path / "b.zarr"


def test_only_what_changed_moves(pair: tuple[Path, Path]) -> None:
    found = diff(*pair, 4)
    assert set(found.feature.values[found.moved.values != 0].tolist()) == {3}
    assert found.run.values.tolist() == ["tiny (a.zarr)", "tiny (b.zarr)"]


def test_a_magnitude_is_the_one_that_was_asked(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """To its last digit: in titles, in words, and in the hits that a median is of, which are 9 and not 6."""
    asked = f"6.{'0' * 29}1"
    counts, _ = diff_tables(diff(*pair, asked))
    told = emergence_table(emergence(pair, asked))
    assert counts.title.endswith(f", at magnitude {asked}")
    assert told.title.startswith(f"Emergence at magnitude {asked}: ")
    assert all(f"|X| >= {asked} in at least" in table.notes[0] for table in (counts, told))
    values = np.full((2, 1, 8, 3), 6, np.float32)
    values[..., :2, 1] = 9
    write_store(tmp_path / "six.zarr", {"ln_attn": values})
    for details in (False, True):
        found = emergence([tmp_path / "six.zarr"], asked, details=details)
        assert (found.outliers.values.tolist(), found.median_magnitude.values.tolist()) == ([1], [9.0])


def test_a_store_with_a_floor_is_compared_above_it(pair: tuple[Path, Path]) -> None:
    peaks, slices = diff(*pair, 4), diff(*pair, 4, engine="slices")
    assert set(zip(peaks.sequence.values, peaks.feature.values, strict=True)) == set(
        zip(slices.sequence.values, slices.feature.values, strict=True)
    )
    with pytest.raises(StoreError, match="below 3"):
        diff(*pair, 2, engine="slices")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("two_sided", [False, True])
def test_the_median_magnitude_is_that_of_numpy(tmp_path: Path, encoding: str, two_sided: bool) -> None:
    random = np.random.default_rng(3)
    values = {site: random.normal(0, 1, (3, 4, 9, 5)).astype(np.float32) for site in ("ln_attn", "ln_mlp")}
    for site in values.values():
        site[..., 2] += random.choice([-9, 9], site.shape[:-1]) if two_sided else 9
    held = list(write_store(tmp_path / "run.zarr", values, encoding).values())
    whole = np.abs(np.stack(held)[..., 2].astype(np.float64))
    for magnitude in (6, 9):
        hits, largest = whole[whole >= magnitude], whole.max(axis=(0, 1))
        from_slices = emergence([tmp_path / "run.zarr"], magnitude, details=True)
        from_peaks = emergence([tmp_path / "run.zarr"], magnitude)
        assert from_slices.largest_feature.values.tolist() == from_peaks.largest_feature.values.tolist() == [2]
        assert from_slices.median_magnitude.values.tolist() == [np.median(hits)]
        assert from_peaks.median_magnitude.values.tolist() == [np.median(largest[largest >= magnitude])]
        assert from_slices.median_from.values.tolist() == [FROM_SLICES]
        assert from_peaks.median_from.values.tolist() == [FROM_PEAKS]


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(worlds(), st.sampled_from(("1e-40", "2", "6", "1e30")))
def test_hits_of_a_feature_are_all_its_values(world: World, magnitude: str) -> None:
    with stored(world) as (path, values):
        found = measure(Run(path), [FeatureHits(0, magnitude)])["feature_hits"]
    flat = np.abs(np.concatenate([site[..., 0].ravel() for site in values]).astype(np.float64))
    real = [value for value in flat.tolist() if not np.isnan(value)]
    hits = np.array([value for value in real if np.isinf(value) or Fraction(value) >= Fraction(magnitude)])
    assert np.repeat(found.hit_magnitude.values, found.hits.values).tolist() == sorted(hits.tolist())
    assert repr(float(found["median"])) == repr(float(np.median(hits)) if hits.size else float("nan")) or (
        np.isinf(hits).any()
    )


def test_a_feature_that_is_not_there(noisy_store: Path) -> None:
    with pytest.raises(InputError, match="there is no feature 12"):
        measure(Run(noisy_store), [FeatureHits(12, "6")])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        (
            {"token_sha256": "1" * 64},
            ["Not the same tokens (their tokenizer is the same); token hash of a: 00000000"],
        ),
        (
            {"token_sha256": "1" * 64, "tokenizer_sha256": "2" * 64},
            ["Not the same tokens (their tokenizers differ, so that neither positions nor perplexities"],
        ),
        (
            {"source": "c4", "revision": "abc", "overlap": "50%"},
            ["Not the same text: a: made up; b: c4 at abc"],
        ),
        ({"bits": "float32"}, ["Not the same precision (computed/stored): a: bfloat16; b: bfloat16/float32."]),
    ],
)
def test_notes_say_what_is_not_alike(noisy_store: Path, changes: dict[str, Any], told: list[str]) -> None:
    plan = make_plan(Run(noisy_store), ask("6"))
    notes = comparison_notes([changed_info(), changed_info(**changes)], [plan, plan], ["a", "b"])
    assert len(notes) == len(told)
    assert all(note.startswith(start) for note, start in zip(notes, told, strict=True))


def test_lengths_and_sites_are_compared_with_a_note(analyze: Command, noisy_store: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "b.zarr", {"ln_attn": np.full((5, 3, 10, 12), 7, np.float32)}, model={"name": "other"})
    found = compare([noisy_store, tmp_path / "b.zarr"], [6, 8])
    notes = " ".join(found.attrs["notes"])
    assert "tiny: 4 x 20; other: 3 x 10" in notes
    assert "Not the same sites: tiny: ln_attn, ln_mlp; other: ln_attn." in notes
    for form in FORMATS:
        _, out, _ = analyze("--store", noisy_store, tmp_path / "b.zarr", "--format", form)
        said = json.loads(out)["notes"] if form == "json" else [out.replace("\n  ", " ").replace("\\_", "_")]
        assert form == "csv" or any("Not the same sites" in text for text in said)


def test_compare_says_what_each_answer_says(noisy_store: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(0, 6, (5, 4, 20, 12)).astype(np.float32)
    mixture = {"name": "mix", "experts": 8, "top_k": 2, "routing": "softmax", "total_parameters": 10**9}
    write_store(tmp_path / "b.zarr", {"ln_attn": values, "ln_mlp": values}, model=mixture)
    part = compare([noisy_store, tmp_path / "b.zarr"], positions_range="1:5", tokens="rest")
    assert part.tokens.values.tolist() == [4 * 4, 4 * 4]
    found = compare([str(noisy_store), tmp_path / "b.zarr"], "6,8", definition="llm-int8")
    assert found.tokens.values.tolist() == [4 * 20, 4 * 20]
    for name, store in (("tiny", noisy_store), ("mix", tmp_path / "b.zarr")):
        for result in answer(store, ask("6,8", definition="llm-int8")):
            at = found.sel(run=name, magnitude=float(result.magnitude))
            assert (int(at.outliers), int(at.unique_features)) == (result.outliers, result.unique_features)
            assert float(at.mean_layer_percent) == result.mean_layer_percent
            assert float(at.perplexity) == result.perplexity.value
            assert at.outliers_per_sequence_interval.values.tolist() == list(result.interval or ())
    assert np.isnan(found.experts.sel(run="tiny"))
    assert int(found.experts.sel(run="mix")) == 8
    assert found.attrs["notes"] == []
    with pytest.raises(InputError, match="is given twice"):
        compare([noisy_store, str(noisy_store)])
    with pytest.raises(InputError, match="no runs were given"):
        compare([])


def test_families_are_grouped_and_ordered(tmp_path: Path) -> None:
    values = {"ln_attn": np.full((2, 2, 4, 3), 7, np.float32)}
    models = [("m3", "org/m3", "a", 30), ("m1", "org/m1", "a", 10), ("x", "./x", "a", 20), ("y", "org/y", "b", 5)]
    for name, id, kind, size in models:
        about = {"name": name, "id": id, "model_type": kind, "total_parameters": size, "active_parameters": size}
        write_store(tmp_path / f"{name}.zarr", values, model=about)
    stores = [tmp_path / f"{name}.zarr" for name, *_ in models]
    found = emergence(stores)
    assert found.run.values.tolist() == ["x", "m1", "m3", "y"]
    assert found.family.values.tolist() == ["a", "a (org)", "a (org)", "b (org)"]
    assert emergence(stores, families={"x": "a (org)"}).run.values.tolist() == ["m1", "x", "m3", "y"]
    with pytest.raises(InputError, match="families names 'z', which is no run here"):
        emergence(stores, families={"z": "a"})
    with pytest.raises(InputError, match="one magnitude, not 2"):
        emergence(stores, "6,8")
    none = emergence(stores, 100)
    assert none.largest_feature.values.tolist() == [-1] * 4
    assert np.isnan(none.median_magnitude).all()
    assert family_of(changed_info(id="/models/x", model_type="llama").model) == "llama"


VIEWS = [
    ("--published",),
    ("--emergence",),
    ("--emergence", "--details"),
    ("--null", "9"),
    ("--overlap",),
    ("--saturation",),
    ("--null", "9", "--overlap"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("view", "form"), list(itertools.product(VIEWS, FORMATS)))
def test_every_view_in_every_format(
    analyze: Command, noisy_store: Path, pair: tuple[Path, Path], view: tuple[str, ...], form: str
) -> None:
    store = pair[0] if "--details" in view else pair[1]
    status, out, err = analyze("--store", noisy_store, store, *view, "--format", form, "-q")
    assert (status, err) == (0, "")
    if form == "json":
        assert all(table["rows"] and table["notes"] for table in json.loads(out)["tables"])
    assert out


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_difference_in_every_format(analyze: Command, pair: tuple[Path, Path], preset: str, form: str) -> None:
    status, out, err = analyze("--diff", *pair, "--definition", preset, "--magnitude", "4", "--format", form)
    assert (status, err) == (0, "")
    if form == "json":
        counts, moves = json.loads(out)["tables"]
        found = diff(*pair, 4, definition=preset)
        assert counts["rows"][0]["both"] == int(found.both)
        assert [row["moved"] for row in moves["rows"]] == found.moved.values[:25].tolist()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--diff", "{a}", "{short}"], "has 8 features and"),
        (["--diff", "{a}", "{b}", "--details"], "--diff has no details"),
        (["--diff", "{a}", "{b}", "--magnitude", "6,8"], "--diff compares at one magnitude, not 2"),
        (["--store", "{a}", "--emergence", "--magnitude", "6,8"], "--emergence shows one magnitude, not 2"),
        (["--diff", "{a}", "{none}"], "does not exist"),
        (["--diff", "{a}", "{b}", "--overlap"], "--overlap needs stores"),
        (["--store", "{a}", "--null", "0"], "0 permutations"),
        (["--store", "{a}", "--null", "many"], "is not a number of permutations"),
        (["--store", "{a}", "--null", "--details"], "--null has no details"),
        (["--store", "{a}", "--overlap", "--features", "3"], "--overlap has none"),
        (["--store", "{a}", "{a}", "--published"], "is given twice"),
        (["--store", "{none}/*.zarr"], "no store matches"),
        ([], "the following arguments are required: --store"),
    ],
)
def test_what_cannot_be_asked(
    analyze: Command, pair: tuple[Path, Path], tmp_path: Path, arguments: list[str], told: str
) -> None:
    write_store(tmp_path / "short.zarr", {"ln_attn": np.zeros((4, 3, 16, 4), np.float32)})
    names = {"a": pair[0], "b": pair[1], "short": tmp_path / "short.zarr", "none": tmp_path / "none.zarr"}
    status, out, err = analyze(*(argument.format(**names) for argument in arguments))
    assert (status, out) == (2, "")
    assert told in err


def test_patterns_are_expanded_where_the_shell_has_not(analyze: Command, pair: tuple[Path, Path]) -> None:
    one, other = pair
    _, out, _ = analyze("--store", str(one.parent / "*.zarr"), "--format", "json")
    assert [result["store"] for result in json.loads(out)["results"]] == [str(one), str(other)]


def test_a_store_whose_name_is_a_pattern_is_itself(analyze: Command, tmp_path: Path) -> None:
    write_store(tmp_path / "a[1].zarr", {"ln_attn": np.full((1, 1, 4, 3), 7, np.float32)})
    status, _, _ = analyze("--store", tmp_path / "a[1].zarr")
    assert status == 0


def test_a_column_of_perplexity_and_precision_where_stores_are_compared(
    analyze: Command, noisy_store: Path, pair: tuple[Path, Path]
) -> None:
    _, alone, _ = analyze("--store", noisy_store)
    _, out, _ = analyze("--store", noisy_store, pair[0])
    assert "Precision" not in alone
    assert "Perplexity" in out
    _, swept, _ = analyze("--store", noisy_store, pair[0], "--magnitude", "6,8")
    assert "perplexity 7.389, precision bfloat16" in swept


DEFINED = ("--null=9", "--overlap", "--saturation", "--emergence", "--published", "--diff")


@pytest.mark.parametrize("view", ["", *DEFINED, "--criteria=kurtosis", "--by=layer", "--quantisation=mxfp4"])
def test_every_view_of_unlike_stores_tells_them_apart(analyze: Command, tmp_path: Path, view: str) -> None:
    """Each says what keeps them from being like with like, its definition, and the route; programs get it by row."""
    random = np.random.default_rng(3)
    for name, shape in (("a", (2, 3, 6, 8)), ("short", (2, 2, 4, 8))):
        write_store(tmp_path / f"{name}.zarr", {"ln_attn": random.normal(0, 6, shape).astype(np.float32)})
    stores = (tmp_path / "a.zarr", tmp_path / "short.zarr")
    asked = ("--diff", *stores) if view == "--diff" else ("--store", *stores, *([view] if view else []))
    _, out, _ = analyze(*asked, "--positions-range", "1:", "-q")
    text = " ".join(out.split())
    assert "Not as many sequences or positions: tiny (a.zarr): 3 x 6; tiny (short.zarr): 2 x 4" in text
    if view not in ("", *DEFINED):
        titles = [line.split(": ") for line in out.splitlines() if line.count("tiny (") == 1 and ": " in line]
        assert {name for words in titles for name in words} >= {"tiny (a.zarr)", "tiny (short.zarr)"}
        return
    assert "positions 1: alone (5 of 6); tiny (short.zarr): positions 1: alone (3 of 4)" in text
    assert text.count("Answered from the slices, which --positions-range 1: takes.") == 1
    _, rows, _ = analyze(*asked, "--positions-range", "1:", "-q", "--format", "csv")
    record = next(csv.DictReader(io.StringIO(rows)))
    knobs = ("definition", "positions_range", "minimum_hits", "sites", "answered_from")
    assert [record[name] for name in knobs] == ["moe-table", "1:", "1", "ln_attn", "slices"]
    assert float(record["magnitude"]) == 6


def test_datasets_of_several_runs_say_which_route_answered(pair: tuple[Path, Path]) -> None:
    assert compare(pair, 4).answered_from == "the stored peaks"
    assert "--minimum-hits 2" in compare(pair, 4, minimum_hits=2).answered_from
    assert null(pair[0], 4, permutations=9).answered_from == "the stored peaks"
