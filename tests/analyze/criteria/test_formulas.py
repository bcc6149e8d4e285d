"""Each formula against the oracle, on arrays that have what breaks formulas: ties, zeros, infinities, one token."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.criteria.infinity_norm import SequenceKurtosis
from analyze.criteria.kurtosis import rms_kurtosis
from analyze.criteria.massive import MassiveActivations, massive
from analyze.criteria.max_median import max_median_ratios
from analyze.criteria.super_experts import super_experts
from analyze.criteria.systematic_channels import times_median
from analyze.criteria.top_values import three_largest
from analyze.criteria.variance import times_mean
from analyze.criteria.z_score import z_scores
from analyze.statistics.channels import Channels
from analyze.statistics.medians import middle_of_all, middle_of_rows
from tests.analyze.criteria import oracle

Floats = npt.NDArray[np.float32]

ZOO = (0.0, -0.0, 0.125, -0.125, 125.0, 100.0, 101.0, -4000.0, 1e-40, 3e38, -1e-7, math.inf, -math.inf, math.nan)


@st.composite
def tensors(draw: st.DrawFn, zoo: bool = True) -> Floats:
    tokens, features = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    plain = random.standard_t(2, (tokens, features)).astype(np.float32) * 3
    if not zoo:
        return plain
    strange = random.random((tokens, features)) < draw(st.sampled_from((0.0, 0.3, 1.0)))
    return np.where(strange, random.choice(np.array(ZOO, np.float32), (tokens, features)), plain).astype(np.float32)


def channels(x: Floats, split: int = 0) -> Any:
    statistic = Channels(())
    return statistic.together(statistic.of(x[:split]), statistic.of(x[split:]))


@settings(deadline=None)
@given(tensors())
def test_medians_are_exact(x: Floats) -> None:
    flat = [abs(float(v)) for v in x.ravel()]
    known = [v for v in flat if not math.isnan(v)]
    low, high = middle_of_all(x)
    ordered = sorted(known)
    expected = (ordered[(len(known) - 1) // 2], ordered[len(known) // 2]) if known else (math.nan, math.nan)
    np.testing.assert_array_equal((low, high), expected)
    for row, (a, b) in enumerate(zip(*middle_of_rows(x), strict=True)):
        own = sorted(abs(float(v)) for v in x[row] if not math.isnan(v))
        ends = (own[(len(own) - 1) // 2], own[len(own) // 2]) if own else (math.nan, math.nan)
        np.testing.assert_array_equal((a, b), ends)


def test_the_median_of_many_values_is_numpys() -> None:
    x = np.random.default_rng(0).standard_t(2, (300, 77)).astype(np.float32)
    low, high = middle_of_all(x)
    assert (low + high) / 2 == np.median(np.abs(x).astype(np.float64))


@settings(deadline=None)
@given(tensors())
def test_massive_activations_are_those_of_exact_comparisons(x: Floats) -> None:
    rows = x.tolist()
    found = MassiveActivations(()).of(x)
    for end, per_token in (("", False), ("_token_median", True)):
        expected = oracle.massive(rows, per_token)
        assert found[f"values{end}"] == len(expected)
        assert found[f"tokens{end}"] == len({t for t, _ in expected})
        counts = [sum(j == feature for _, j in expected) for feature in range(x.shape[1])]
        assert found[f"features{end}"].tolist() == counts


def test_a_limit_that_float64_rounds_is_compared_exactly() -> None:
    """500 * (2^-60 + 2^-2) is a little above 125, which float64 cannot say."""
    low, high = np.float32(2.0**-60), np.float32(0.25)
    limit = (Fraction(float(low)) + Fraction(float(high))) * 500
    assert float(limit) == 125.0  # rounded down, to a value that does not reach it
    assert not massive(np.array([[125.0]], np.float32), low, high).any()
    assert massive(np.array([[np.nextafter(np.float32(125), np.float32(126))]], np.float32), low, high).all()


@settings(deadline=None)
@given(tensors(zoo=False), st.integers(0, 6))
def test_what_is_made_of_channels(x: Floats, split: int) -> None:
    found = channels(x, min(split, len(x)))
    rows = x.tolist()
    mean_square = found["mean"] ** 2 + found["m2"] / found["count"]
    variance = found["m2"] / found["count"]
    np.testing.assert_allclose(mean_square, [float(v) for v in oracle.mean_squares(rows)], rtol=1e-12)
    scale = float(np.abs(x).max()) ** 2
    np.testing.assert_allclose(variance, [float(v) for v in oracle.variances(rows)], rtol=1e-11, atol=1e-13 * scale)
    np.testing.assert_allclose(rms_kurtosis(mean_square), oracle.kurtosis(rows), rtol=1e-12)
    assert 1 - 1e-12 <= rms_kurtosis(mean_square) <= x.shape[1] * (1 + 1e-12)
    assert np.flatnonzero(times_median(np.sqrt(mean_square)) > 6).tolist() == oracle.systematic_channels(rows)
    if len(x) > 1:
        assert np.flatnonzero(times_mean(variance) >= 5).tolist() == oracle.variance_outliers(rows)
    if len(x) > 1 and x.shape[1] > 1:
        deviation = np.sqrt(found["m2"] / (found["count"] - 1))
        expected = oracle.z_scores(rows)
        np.testing.assert_allclose(z_scores(deviation), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found["largest"], np.abs(x).max(axis=0))
    np.testing.assert_allclose(found["magnitudes"], np.abs(x).astype(np.float64).sum(axis=0), rtol=1e-13)


def test_variance_does_not_drown_in_a_large_mean() -> None:
    x = (1e4 + np.tile([[0.0], [1.0]], (500, 3))).astype(np.float32)
    np.testing.assert_allclose(channels(x, 333)["m2"] / 1000, 0.25, rtol=1e-12)


def test_channels_leave_out_what_is_not_finite() -> None:
    found = channels(np.array([[1, np.nan], [np.inf, np.nan], [3, np.nan]], np.float32))
    assert found["count"].tolist() == [2, 0]
    assert (found["mean"][0], found["m2"][0]) == (2, 2)
    assert found["largest"].tolist() == [np.inf, 0]  # a maximum, which an infinity is


@settings(deadline=None)
@given(tensors(zoo=False))
def test_max_median(x: Floats) -> None:
    np.testing.assert_allclose(max_median_ratios(x).mean(), oracle.max_median(x.tolist()), rtol=1e-13)


def test_max_median_of_a_zero_median_is_infinite() -> None:
    assert max_median_ratios(np.array([[0, 0, 0, 5]], np.float32)).tolist() == [math.inf]
    assert np.isnan(max_median_ratios(np.zeros((1, 4), np.float32))).all()


@settings(deadline=None)
@given(tensors())
def test_infinity_norm_and_kurtosis(x: Floats) -> None:
    found = SequenceKurtosis(()).of(x)
    rows = x.tolist()
    if np.isnan(x).all():
        assert np.isnan(found["largest"])
    else:
        assert found["largest"] == oracle.infinity_norm(rows)
    if np.isfinite(x).sum() < 2:
        assert np.isnan(found["kurtosis"])
    else:
        np.testing.assert_allclose(found["kurtosis"], oracle.value_kurtosis(rows), rtol=1e-11)


@settings(deadline=None)
@given(tensors())
def test_three_largest(x: Floats) -> None:
    expected = oracle.top(x.tolist())
    found = three_largest(x)
    assert found[: len(expected)].tolist() == expected
    assert np.isnan(found[len(expected) :]).all()


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from((0.0, 0.2, 0.9)))
def test_super_experts(layers: int, experts: int, seed: int, unused: float) -> None:
    random = np.random.default_rng(seed)
    largest = np.exp(random.standard_t(2, (layers, experts)).clip(-20, 20)).astype(np.float32).astype(np.float64)
    largest[random.random((layers, experts)) < unused] = np.nan
    found, _ = super_experts(largest, layers)
    expected = [] if np.isnan(largest).all() else oracle.super_experts(largest.tolist())
    assert [tuple(pair) for pair in np.argwhere(found).tolist()] == expected


@pytest.mark.parametrize("layers", [3, 4, 7, 48])
def test_the_first_three_quarters_of_the_layers(layers: int) -> None:
    """In a model of 400 experts a layer a single large one is above the percentile wherever it is."""
    found = []
    for layer in range(layers):
        largest = np.ones((layers, 400))
        largest[layer, 7] = 1000
        found.append(bool(super_experts(largest, layers)[0].any()))
    assert found == [layer / layers < 0.75 for layer in range(layers)]
