"""The four definitions against loops over the values themselves, and worked examples by hand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.thresholds.answers import answer
from analyze.thresholds.definitions import DEFINITIONS
from analyze.thresholds.question import ask
from analyze.thresholds.results import Result
from tests.analyze.oracle import Answer, expected
from tests.analyze.worlds import PRESETS, SHARES, World, stored, worlds
from tests.stores import write_store

MAGNITUDES = ("6", "0.001", "5.97", "6.001", "12", "70000")


def agree(result: Result, told: Answer) -> None:
    """The result says what the oracle says, number for number."""
    found = list(result.features())
    assert [(f.sequence, f.feature) for f in found] == [(u.sequence, u.feature) for u in told.units]
    assert [f.layer_percent for f in found] == [u.layer_percent for u in told.units]
    assert [f.position_percent for f in found] == [u.position_percent for u in told.units]
    assert [f.peak for f in found] == [u.peak for u in told.units]
    assert [f.critical_magnitude for f in found] == [u.critical for u in told.units]
    assert (result.outliers, result.unique_features) == (len(told.units), told.unique)
    assert list(result.by_sequence) == told.by_sequence
    assert result.outliers_per_sequence == sum(told.by_sequence) / len(told.by_sequence)
    assert (result.mean_layer_percent, result.mean_position_percent) == (told.mean_layers, told.mean_positions)
    if result.detail is not None:
        assert [f.hits for f in found] == [u.hits for u in told.units]
        assert [f.one_sided for f in found] == [u.one_sided for u in told.units]
        assert (result.ties, result.detail.most_common) == (told.ties, told.most_common)
        quartiles = result.detail.quartiles
        assert repr(told.quartiles) == repr(
            None if quartiles is None else (quartiles.first, quartiles.median, quartiles.third)
        )


def test_the_oracle_knows_every_preset() -> None:
    assert tuple(DEFINITIONS) == PRESETS


@settings(max_examples=20, deadline=None)
@given(worlds(), st.sampled_from(SHARES), st.sampled_from(SHARES))
def test_peaks_answer_every_definition_as_loops_do(world: World, layers: str, positions: str) -> None:
    with stored(world) as (path, values):
        for preset in PRESETS:
            question = ask(",".join(MAGNITUDES), layers=layers, positions=positions, definition=preset)
            shares = (question.layers.value, question.positions.value)
            for result in answer(path, question):
                agree(result, expected(values, preset, result.magnitude, *shares, world.sequences))


@settings(max_examples=12, deadline=None)
@given(worlds(), st.sampled_from(SHARES), st.sampled_from(SHARES), st.sampled_from(PRESETS))
def test_details_are_what_loops_find(world: World, layers: str, positions: str, preset: str) -> None:
    with stored(world) as (path, values):
        question = ask(
            ",".join(MAGNITUDES), layers=layers, positions=positions, definition=preset, details=True, engine="slices"
        )
        shares = (question.layers.value, question.positions.value)
        for result in answer(path, question):
            assert result.detail is not None
            agree(result, expected(values, preset, result.magnitude, *shares, world.sequences))


def planted(shape: tuple[int, int, int, int], *hits: tuple[int, int, int, int], value: float = 8) -> Any:
    values = np.ones(shape, np.float32)
    for hit in hits:
        values[hit] = value
    return values


def test_worked_example_of_each_unit(tmp_path: Path) -> None:
    """Two layers, two sequences, ten positions, two features; feature 1 reaches 8, on each site in turn.

    In sequence 0: cell (ln_attn, layer 0) at position 0, cell (ln_mlp, layer 1) at positions 0 and 3. In sequence 1:
    cell (ln_attn, layer 0) at position 9.
    """
    shape = (2, 2, 10, 2)
    values = {
        "ln_attn": planted(shape, (0, 0, 0, 1), (0, 1, 9, 1)),
        "ln_mlp": planted(shape, (1, 0, 0, 1), (1, 0, 3, 1)),
    }
    write_store(tmp_path / "run.zarr", values)

    def units(preset: str, layers: str, positions: str) -> list[tuple[int | None, int, float, float]]:
        (result,) = answer(tmp_path / "run.zarr", ask("6", layers=layers, positions=positions, definition=preset))
        return [(f.sequence, f.feature, f.layer_percent, f.position_percent) for f in result.features()]

    assert units("moe-table", "50%", "20%") == [(0, 1, 50.0, 20.0)]
    assert units("moe-table", "25%", "10%") == [(0, 1, 50.0, 20.0), (1, 1, 25.0, 10.0)]
    assert units("moe-table", "51%", "1%") == []
    assert units("llm-int8", "50%", "15%") == [(None, 1, 50.0, 15.0)]
    assert units("llm-int8", "50%", "16%") == []
    assert units("llm-int8-block", "100%", "15%") == [(None, 1, 100.0, 15.0)]
    assert units("majority", "50%", "20%") == [(None, 1, 50.0, 20.0)]
    assert units("majority", "25%", "10%") == [(None, 1, 37.5, 15.0)]


def test_a_sum_over_sequences_can_exceed_the_features(tmp_path: Path) -> None:
    write_store(tmp_path / "run.zarr", {"ln_attn": np.full((1, 5, 3, 2), 7, np.float32)})
    (pairs,) = answer(tmp_path / "run.zarr", ask("6"))
    assert (pairs.outliers, pairs.unique_features, pairs.by_sequence) == (10, 2, (2, 2, 2, 2, 2))
    assert pairs.interval == (2.0, 2.0)
    (features,) = answer(tmp_path / "run.zarr", ask("6", definition="majority"))
    assert (features.outliers, features.unique_features) == (2, 2)


@pytest.mark.parametrize(("hit", "counted"), [(122, False), (123, True)])
def test_six_percent_of_2048_is_123(tmp_path: Path, hit: int, counted: bool) -> None:
    values = np.zeros((1, 1, 2048, 1), np.float32)
    values[0, 0, :hit, 0] = 6
    write_store(tmp_path / "run.zarr", {"ln_attn": values})
    (result,) = answer(tmp_path / "run.zarr", ask("6"))
    assert bool(result.outliers) is counted


def test_a_share_is_never_rounded_as_a_float(tmp_path: Path) -> None:
    values = np.zeros((1, 1, 100, 1), np.float32)
    values[0, 0, :7, 0] = 6
    write_store(tmp_path / "run.zarr", {"ln_attn": values})
    (result,) = answer(tmp_path / "run.zarr", ask("6", positions="7%"))
    assert result.outliers == 1


def test_six_is_a_tie_and_what_rounded_up_to_it_too(tmp_path: Path) -> None:
    """bfloat16 steps by 1/32 there: 5.99 is stored as 6, 5.98 is not, and 6.03125 is the next value."""
    values = np.array([6, -6, 5.99, 5.98, 6.03125], np.float32).reshape(1, 1, 5, 1)
    write_store(tmp_path / "run.zarr", {"ln_attn": values})
    at_6, at_5_99 = answer(tmp_path / "run.zarr", ask("6,5.99", details=True))
    assert at_6.detail is not None
    assert (at_6.detail.hits.tolist(), at_6.ties) == ([4], 3)
    assert at_5_99.detail is not None
    assert (at_5_99.detail.hits.tolist(), at_5_99.ties) == ([4], 0)


def test_only_infinities_reach_beyond_the_format(tmp_path: Path) -> None:
    values = np.array([[np.inf, 65504.0, np.nan], [-np.inf, 65504.0, np.nan]], np.float32).reshape(1, 1, 2, 3)
    write_store(tmp_path / "run.zarr", {"ln_attn": values}, "float16")
    (result,) = answer(tmp_path / "run.zarr", ask("65505", details=True))
    (only,) = result.features()
    assert (only.feature, only.peak, only.critical_magnitude, only.hits) == (0, np.inf, np.inf, 2)
    assert (result.ties, result.nonfinite, only.one_sided) == (0, 4, False)


def test_magnitude_zero_counts_everything_but_is_refused_beside_nan(tmp_path: Path) -> None:
    values = np.zeros((1, 1, 2, 1), np.float32)
    write_store(tmp_path / "zeros.zarr", {"ln_attn": values})
    (result,) = answer(tmp_path / "zeros.zarr", ask("0", details=True))
    assert result.detail is not None
    assert (result.outliers, result.detail.hits.tolist(), result.ties) == (1, [2], 2)
    values[0, 0, 0, 0] = np.nan
    write_store(tmp_path / "nan.zarr", {"ln_attn": values})
    with pytest.raises(ValueError, match=r"--magnitude 0 cannot be answered.*1 of its values is NaN"):
        answer(tmp_path / "nan.zarr", ask("0"))


def test_majority_needs_half_of_the_sequences_rounded_up(tmp_path: Path) -> None:
    """Of five sequences three are needed; feature f meets the rule in f of them."""
    values = np.ones((1, 5, 2, 6), np.float32)
    for feature in range(6):
        values[0, :feature, :, feature] = 6 + feature
    write_store(tmp_path / "run.zarr", {"ln_attn": values})
    (result,) = answer(tmp_path / "run.zarr", ask("6", definition="majority"))
    assert [(f.feature, f.critical_magnitude) for f in result.features()] == [(5, 11.0), (4, 10.0), (3, 9.0)]
    assert result.by_sequence == (5, 4, 3, 2, 1)
    assert result.plan.sequences_needed == 3


def test_an_alias_is_not_counted_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    write_store(path, {"ln_attn": np.full((2, 1, 2, 1), 7, np.float32)}, aliases={"ln_mlp": "ln_attn"})
    (default,) = answer(path, ask("6"))
    assert (default.plan.sites, default.plan.layers_total) == (("ln_attn",), 2)
    for engine in ("peaks", "slices"):
        (asked,) = answer(path, ask("6", sites="ln_mlp", engine=engine))
        assert (asked.plan.sites, asked.outliers) == (("ln_mlp",), 1)


def test_means_are_rounded_once() -> None:
    """A third of 100% over three units, whose float sum is not exact."""
    from analyze.thresholds.results import _mean_percent

    assert _mean_percent(np.array([1, 1, 1]), np.array([3, 3, 7])) == float(
        100 * (Fraction(1, 3) + Fraction(1, 3) + Fraction(1, 7)) / 3
    )


def test_the_doubt_about_depth_is_worked_right(tmp_path: Path) -> None:
    """docs/definitions.md: one hit in each of 96 tensors of 48 blocks, at another position each time."""
    values = {site: np.zeros((48, 1, 2048, 1), np.float32) for site in ("ln_attn", "ln_mlp")}
    for place, site in enumerate(values):
        values[site][np.arange(48), 0, 2 * np.arange(48) + place, 0] = 8
    write_store(tmp_path / "run.zarr", values)
    (union,) = answer(tmp_path / "run.zarr", ask("6", positions="0.01%"))
    (density,) = answer(tmp_path / "run.zarr", ask("6", positions="0.01%", position_coverage="density"))
    assert (union.mean_layer_percent, union.mean_position_percent) == (100, 100 * 96 / 2048)
    assert f"{union.mean_position_percent:.1f} {density.mean_position_percent:.2f}" == "4.7 0.05"


def test_the_doubt_about_gain_is_worked_right() -> None:
    """A token whose only value is in one feature reaches the bound of docs/definitions.md."""
    x = np.zeros(2304)
    x[7] = 123.0
    assert x[7] / np.sqrt(np.mean(x**2)) * 0.125 == pytest.approx(6, rel=1e-12)
