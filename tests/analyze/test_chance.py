"""The null against every permutation there is, and overlaps and growth against sets of Python."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.chance.asking import null, overlap, saturation
from analyze.chance.growth import first_sequences, pair_counts, subset_intervals, subset_means
from analyze.chance.levels import Levels, take_levels
from analyze.chance.null import Rule, expected_counts, observed_counts, permuted_counts
from analyze.chance.tables import null_table, overlap_table, saturation_table
from analyze.formats import FORMATS, render_tables
from analyze.thresholds.answers import answer, peak_source
from analyze.thresholds.plan import make_plan
from analyze.thresholds.question import ask
from schemas.errors import InputError
from schemas.run import Run
from tests.analyze.worlds import PRESETS, World, stored, worlds
from tests.stores import write_store


def all_relabellings(levels: Levels, rule: Rule) -> tuple[list[Fraction], list[Fraction]]:
    """Means over every permutation of every layer, by loops: (layers, layers and positions), per threshold."""
    scopes, layers, features = levels.layers.shape
    thresholds = levels.positions.shape[2]
    totals = np.zeros((2, thresholds), object)
    count = 0
    for labels in itertools.product(itertools.permutations(range(features)), repeat=layers):
        count += 1
        for t, f in itertools.product(range(thresholds), range(features)):
            met = [sum(levels.layers[q, c, labels[c][f]] > t for c in range(layers)) for q in range(scopes)]
            on_layers = [n >= rule.layers_needed for n in met]
            both = [ok and bool(levels.positions[q, f, t] >= rule.positions_needed) for q, ok in enumerate(on_layers)]
            for row, found in enumerate((on_layers, both)):
                totals[row, t] += sum(found) if rule.scopes_needed is None else sum(found) >= rule.scopes_needed
    return [Fraction(int(x), count) for x in totals[0]], [Fraction(int(x), count) for x in totals[1]]


def made_up(random: np.random.Generator, scopes: int = 2, layers: int = 3, features: int = 3) -> Levels:
    positions = np.sort(random.integers(0, 5, (scopes, features, 2)), axis=2)[:, :, ::-1]
    return Levels(random.integers(0, 3, (scopes, layers, features)).astype(np.uint16), positions, 0)


@pytest.mark.slow
@pytest.mark.parametrize("needed", [1, 2, 3])
@pytest.mark.parametrize("scopes_needed", [None, 1, 2])
def test_the_null_is_the_mean_over_all_relabellings(needed: int, scopes_needed: int | None) -> None:
    for seed in range(3):
        levels = made_up(np.random.default_rng(seed))
        rule = Rule(needed, 2, scopes_needed)
        true = np.array(all_relabellings(levels, rule), float)
        expected = expected_counts(levels, rule)
        assert (expected is None) == (scopes_needed is not None)
        if expected is not None:
            np.testing.assert_allclose(expected, true, rtol=1e-12, atol=1e-15)
        drawn = permuted_counts(levels, rule, 3000, seed=1)
        error = drawn.outliers.std(axis=0) / np.sqrt(3000)
        assert (np.abs(drawn.outliers.mean(axis=0) - true) <= 5 * error + 1e-12).all()


def test_a_relabelling_keeps_the_marginals_and_its_seed() -> None:
    levels = made_up(np.random.default_rng(5), 3, 4, 6)
    one = Rule(1, 0, None)
    for t in range(2):
        single = Levels((levels.layers[:, :1] > t).astype(np.uint16), levels.positions[:, :, :1], 0)
        counts = permuted_counts(single, one, 20, 3).outliers[:, 0, 0]
        assert (counts == (levels.layers[:, :1] > t).sum()).all()
    again = [permuted_counts(levels, Rule(2, 2, None), 20, seed).outliers for seed in (3, 3, 4)]
    assert (again[0] == again[1]).all()
    assert (again[0] != again[2]).any()


def test_agreement_beyond_chance_is_told_from_chance() -> None:
    random = np.random.default_rng(0)
    layers = (random.random((4, 20, 50)) < 0.08).astype(np.uint16)
    positions = np.full((4, 50, 1), 9)
    rule = Rule(7, 1, None)
    by_chance = observed_counts(Levels(layers, positions, 0), rule).outliers[0, 0]
    layers[:, :, 7] = 1
    levels = Levels(layers, positions, 0)
    seen = observed_counts(levels, rule).outliers[0, 0]
    drawn = permuted_counts(levels, rule, 200, 0).outliers[:, 0, 0]
    assert seen >= by_chance + 4 - 1
    expected = expected_counts(levels, rule)
    assert expected is not None
    assert expected[0, 0] < seen / 2
    assert abs(drawn.mean() - expected[0, 0]) < 0.5


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(worlds(), st.sampled_from(PRESETS))
def test_levels_count_what_the_definition_counts(world: World, preset: str) -> None:
    with stored(world) as (path, _):
        question = ask("2,6,6.001,8.5", definition=preset)
        run = Run(path)
        plan = make_plan(run, question)
        levels = take_levels(plan, peak_source(run, plan))
        scoped = levels.pooled() if plan.question.definition.scope == "pooled" else levels
        found = observed_counts(scoped, Rule(plan.layers_needed, plan.positions_needed, plan.sequences_needed))
        results = answer(path, question)
        of = list(plan.threshold_of)
        assert found.outliers[1][of].tolist() == [r.outliers for r in results]
        assert found.unique[1][of].tolist() == [r.unique_features for r in results]
        assert first_sequences(plan, levels)[-1][of].tolist() == [r.outliers for r in results]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_sequences_count_as_a_store_of_them_alone(tmp_path: Path, preset: str) -> None:
    random = np.random.default_rng(11)
    values = (random.standard_t(2, (3, 5, 7, 9)) * 3).astype(np.float32)
    write_store(tmp_path / "all.zarr", {"ln_attn": values})
    question = ask("3,6", definition=preset)
    run = Run(tmp_path / "all.zarr")
    plan = make_plan(run, question)
    found = first_sequences(plan, take_levels(plan, peak_source(run, plan)))
    for n in range(1, 6):
        write_store(tmp_path / f"{n}.zarr", {"ln_attn": values[:, :n]})
        assert found[n - 1].tolist() == [r.outliers for r in answer(tmp_path / f"{n}.zarr", question)]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0, 1))
def test_overlap_and_growth_are_those_of_sets(seed: int, sequences: int, share: float) -> None:
    met = np.random.default_rng(seed).random((sequences, 70)) < share
    sets = [set(np.flatnonzero(row).tolist()) for row in met]
    both, either = pair_counts(met)
    for (i, a), (j, b) in itertools.product(enumerate(sets), repeat=2):
        assert (both[i, j], either[i, j]) == (len(a & b), len(a | b))
    limits = subset_intervals(np.stack([met, ~met], axis=2), 200, 0)
    draws = np.random.default_rng(0)
    orders = [draws.permutation(sequences).tolist() for _ in range(200)]
    for level, rows in enumerate((sets, [set(range(70)) - one for one in sets])):
        for n in range(1, sequences + 1):
            drawn = [len(set().union(*(rows[q] for q in order[:n]))) for order in orders]
            assert limits[level, n - 1].tolist() == np.percentile(drawn, [2.5, 97.5]).tolist()
    for n, mean in enumerate(subset_means(met), start=1):
        subsets = [len(set().union(*some)) for some in itertools.combinations(sets, n)]
        assert mean == float(Fraction(sum(subsets), len(subsets)))


def test_datasets_of_chance_say_what_kernels_say(noisy_store: Path) -> None:
    found = null(noisy_store, [3, 6], permutations=50, seed=9)
    results = answer(noisy_store, ask("3,6"))
    assert found.observed.sel(criterion="layers and positions").values.tolist() == [r.outliers for r in results]
    assert found.observed_unique[1].values.tolist() == [r.unique_features for r in results]
    xr.testing.assert_identical(found, null(str(noisy_store), "3,6", permutations=50, seed=9))
    assert (found.interval[..., 0] <= found.interval[..., 1]).all()
    assert (found.p_value >= 1 / 51).all()
    assert (found.p_value <= 1).all()
    majority = null(noisy_store, 6, permutations=50, definition="majority")
    assert majority.attrs["expected_from"] == "the permutations drawn"
    assert (majority.expected == majority.drawn_mean).all()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("engine", ["peaks", "slices"])
def test_chance_by_both_routes(noisy_store: Path, preset: str, engine: str) -> None:
    default: dict[str, Any] = {"definition": preset}
    knobs = {**default, "engine": engine}
    drawn = [null(noisy_store, 6, permutations=9, **some) for some in (knobs, default)]
    xr.testing.assert_equal(*drawn)
    xr.testing.assert_equal(overlap(noisy_store, 6, **knobs), overlap(noisy_store, 6, **default))
    xr.testing.assert_equal(saturation(noisy_store, [3, 6], **knobs), saturation(noisy_store, [3, 6], **default))


def test_overlap_is_of_the_sets_that_each_sequence_gives(noisy_store: Path) -> None:
    (result,) = answer(noisy_store, ask("4"))
    sets = [{f.feature for f in result.features() if f.sequence == q} for q in range(4)]
    found = overlap(noisy_store, 4)
    assert found.features.values.tolist() == [len(s) for s in sets]
    pairs = []
    for i, j in itertools.combinations(range(4), 2):
        assert float(found.jaccard[i, j]) == len(sets[i] & sets[j]) / len(sets[i] | sets[j])
        pairs.append(float(found.jaccard[i, j]))
    assert float(found.mean_jaccard) == pytest.approx(np.mean(pairs))
    growth = saturation(noisy_store, 4)
    assert float(growth.unique_features[0, -1]) == result.unique_features
    assert growth.tokens.values.tolist() == [20, 40, 60, 80]
    assert float(growth.new_features.sum()) == pytest.approx(result.unique_features)


@pytest.mark.parametrize(
    ("ask_it", "told"),
    [
        (lambda store: null(store, 6, permutations=0), "0 permutations; give from 1"),
        (lambda store: null(store, "1:300:0.5"), "the limit is 256"),
        (lambda store: overlap(store, "6,8"), "--overlap answers one magnitude, not 2"),
        (lambda store: overlap(store, "6.0000001,6.0000002"), "one magnitude, not 2"),
        (lambda store: saturation(store, 6, orders=0), "0 orders; give from 1"),
        (lambda store: null(store, 6, details=True), "--null has no details"),
    ],
)
def test_what_chance_refuses(noisy_store: Path, ask_it: Callable[[Path], object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        ask_it(noisy_store)


@pytest.mark.parametrize("form", FORMATS)
def test_tables_of_chance_in_every_format(noisy_store: Path, form: str) -> None:
    tables = [
        null_table([null(noisy_store, [3, 6], permutations=9)]),
        overlap_table([overlap(noisy_store, 1e9), overlap(noisy_store, 6)]),
        saturation_table([saturation(noisy_store, [3, 6])]),
    ]
    for table in tables:
        assert "".join(render_tables([table], form))
    assert len(tables[0].rows) == 4
    assert next(tables[1].records())["jaccard_mean"] is None or np.isnan(next(tables[1].records())["jaccard_mean"])


def test_tables_of_chance_say_the_magnitude_that_was_asked(noisy_store: Path) -> None:
    asked = "6.00000000000000000001"
    overlaps = overlap_table([overlap(noisy_store, asked)])
    assert overlaps.title == f"Overlap between sequences at magnitude {asked}"
    for table in (
        overlaps,
        null_table([null(noisy_store, asked, permutations=9)]),
        saturation_table([saturation(noisy_store, asked)]),
    ):
        assert f"|X| >= {asked} in at least" in table.notes[0]
    several = saturation_table([saturation(noisy_store, f"6,{asked}")])
    assert "|X| >= the magnitude in" in several.notes[0]
    for table in (several, null_table([null(noisy_store, f"6,{asked}", permutations=9)])):
        place = [field.heading for field in table.columns()].index("Magnitude")
        assert {cells[place] for cells in table.cells()} == {"6", asked}
        assert next(table.records())["magnitude"] == 6
