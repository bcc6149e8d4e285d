"""Statistics of the slices, each against NumPy over the decoded values, however the pass is made."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.moments import Moments
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from analyze.statistics.statistic import Statistic
from schemas.run import Run
from tests.analyze.worlds import World, stored, worlds
from tests.stores import as_stored

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


def largest(values: Any, axis: Any, encoding: str) -> Any:
    """Sign-cleared patterns of the largest magnitudes, NaN passed over."""
    stored = as_stored(np.where(np.isnan(values), np.float32(0), np.abs(values)).max(axis=axis), encoding)
    return stored.view(np.uint32) if encoding == "float32" else stored


@settings(max_examples=12, deadline=None)
@given(worlds())
def test_peaks_and_hits_are_those_of_exact_comparisons(world: World) -> None:
    together: list[Statistic] = [Moments(), PositionPeaks(), Exceedances(MAGNITUDES), LayerPeaks()]
    with stored(world) as (path, held):
        run = Run(path)
        found = measure(run, together)
        for statistic in together:
            alone = measure(run, [statistic])[statistic.name]
            assert alone.identical(found[statistic.name])
    every = np.stack(held)  # (site, layer, sequence, position, feature)
    np.testing.assert_array_equal(found["exceedances"].hits, np.stack([oracle_hits(values) for values in held]))
    assert (found["exceedances"].rows == every.shape[2] * every.shape[3]).all()
    np.testing.assert_array_equal(found["layer_peaks"].layer_peak, largest(every, 3, world.encoding))
    np.testing.assert_array_equal(found["layer_peaks"].nonfinite, (~np.isfinite(every)).sum(axis=(3, 4)))
    np.testing.assert_array_equal(found["position_peaks"].position_peak, largest(every, (0, 1), world.encoding))


@settings(max_examples=10, deadline=None)
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


def test_two_statistics_of_one_name_are_refused(noisy_store: Any) -> None:
    with pytest.raises(ValueError, match="with one name: moments, moments"):
        measure(Run(noisy_store), [Moments(), Moments()])


def test_counts_are_held_in_as_few_bytes_as_their_rows_need_and_told_in_eight() -> None:
    counting = Exceedances(("6",))
    held = {"hits": np.array([[200, 0]], np.uint8), "rows": np.array(200)}
    two = counting.combine(held, held)
    assert two["hits"].tolist() == [[400, 0]]
    assert two["hits"].dtype == np.uint16
    many = counting.combine(
        {**two, "rows": np.array(2**16)}, {"hits": np.array([[65535, 1]], np.uint16), "rows": two["rows"]}
    )
    assert many["hits"].tolist() == [[65935, 1]]
    assert many["hits"].dtype == np.uint32
    assert held["hits"].tolist() == [[200, 0]]
