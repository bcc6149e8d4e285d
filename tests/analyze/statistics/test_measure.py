"""Statistics of the slices, each against NumPy over the decoded values."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings

from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.moments import Moments
from schemas.run import Run
from tests.analyze.worlds import World, stored, worlds

MAGNITUDES = ("6", "0", "0.5", "6.001", "12", "300000")


def reaches(value: float, magnitude: str) -> bool:
    if np.isnan(value):
        return False
    return bool(np.isinf(value)) or abs(Fraction(value)) >= Fraction(magnitude)


def oracle_hits(values: Any) -> Any:
    """(layer, feature, magnitude) of (layer, sequence, position, feature) decoded values."""
    return np.stack(
        [
            np.array([reaches(float(v), m) for v in values.ravel()]).reshape(values.shape).sum(axis=(1, 2))
            for m in MAGNITUDES
        ],
        axis=-1,
    )


@settings(max_examples=15, deadline=None)
@given(worlds())
def test_hits_are_those_of_exact_comparisons(world: World) -> None:
    with stored(world) as (path, held):
        found = measure(Run(path), [Exceedances(MAGNITUDES)])["exceedances"]
    assert found.hits.dims == ("site", "layer", "feature", "magnitude")
    for site, values in enumerate(held):
        np.testing.assert_array_equal(found.hits.values[site], oracle_hits(values))


@settings(max_examples=15, deadline=None)
@given(worlds())
def test_moments_are_those_of_all_finite_values_at_once(world: World) -> None:
    with stored(world) as (path, held):
        found = measure(Run(path), [Moments()])["moments"]
    for site, values in enumerate(held):
        for layer in range(values.shape[0]):
            for feature in range(values.shape[3]):
                x = values[layer, :, :, feature].astype(np.longdouble)
                x = x[np.isfinite(x)]
                cell = found.isel(site=site, layer=layer, feature=feature)
                assert cell["count"] == x.size
                mean = x.mean() if x.size else 0
                size = float(np.abs(x).max(initial=0))
                np.testing.assert_allclose(float(cell["mean"]), float(mean), rtol=1e-12, atol=1e-12 * size)
                for k in (2, 3, 4):
                    np.testing.assert_allclose(
                        float(cell[f"m{k}"]), float(((x - mean) ** k).sum()), rtol=1e-11, atol=1e-11 * size**k
                    )
