"""Quantiles, tokens' magnitudes and signed extremes against NumPy over the decoded values."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from analyze.statistics.magnitudes import Magnitudes
from analyze.statistics.measure import measure
from analyze.statistics.selection import Selection
from analyze.statistics.signed_extremes import SignedExtremes
from analyze.statistics.token_magnitudes import TokenMagnitudes
from schemas.errors import InputError
from schemas.run import Run
from tests.analyze.criteria.mixture import make_mixture
from tests.analyze.worlds import World, stored, worlds

PROBABILITIES = ("0.5", "0", "1", "0.999", "0.25")


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(worlds())
def test_quantiles_are_exact(world: World) -> None:
    with stored(world) as (path, held):
        found = measure(Run(path), [Magnitudes(PROBABILITIES)], cache=False)["magnitudes"]
    for site, values in enumerate(held):
        for layer in range(len(values)):
            known = sorted(np.abs(v) for v in values[layer].ravel().tolist() if not math.isnan(v))
            assert found["count"].values[site, layer] == len(known)
            for k, probability in enumerate(PROBABILITIES):
                quantile = found["quantile"].values[site, layer, k]
                if not known:
                    assert np.isnan(quantile)
                    continue
                place = Fraction(probability) * (len(known) - 1)
                low, high = known[math.floor(place)], known[math.ceil(place)]
                if math.isinf(high):
                    assert quantile == (low if place.denominator == 1 else math.inf)
                else:
                    exact = Fraction(low) + (Fraction(high) - Fraction(low)) * (place - math.floor(place))
                    np.testing.assert_allclose(quantile, float(exact), rtol=1e-15)


@settings(max_examples=10, deadline=None)
@given(worlds())
def test_tokens_and_extremes_are_those_of_the_values(world: World) -> None:
    with stored(world) as (path, held):
        found = measure(Run(path), [TokenMagnitudes(), SignedExtremes()], cache=False)
    values = np.stack(held)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = found["token_magnitudes"]
        np.testing.assert_array_equal(tokens.maximum, np.nanmax(np.abs(values), axis=-1))
        np.testing.assert_array_equal(tokens["median"], np.nanmedian(np.abs(values.astype(np.float64)), axis=-1))
        squares = np.nanmean(values.astype(np.longdouble) ** 2, axis=-1)
        np.testing.assert_allclose(tokens.rms, np.sqrt(squares).astype(np.float64), rtol=1e-15)
        extremes = found["signed_extremes"]
        np.testing.assert_array_equal(extremes.lowest, np.nanmin(values, axis=(2, 3)))
        np.testing.assert_array_equal(extremes.highest, np.nanmax(values, axis=(2, 3)))


def test_a_histogram_counts_every_pattern(noisy_store: Path) -> None:
    found = measure(Run(noisy_store), [Magnitudes(histogram=True)], cache=False)["magnitudes"]
    patterns = Run(noisy_store).read("ln_attn", (2,)) & 0x7FFF
    np.testing.assert_array_equal(
        found.histogram.sel(site="ln_attn", layer=2), np.bincount(patterns.ravel(), minlength=0x7F81)
    )


def test_what_there_is_no_quantile_of_is_refused(noisy_store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no quantile at 1\.5"):
        measure(Run(noisy_store), [Magnitudes(("1.5",))])
    with pytest.raises(InputError, match="without gain units"):
        measure(Run(make_mixture(tmp_path / "gains.zarr").path), [Magnitudes()], Selection(in_gain_units=True))
