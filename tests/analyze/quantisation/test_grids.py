"""Rounding to the small formats: every bfloat16 pattern against ml_dtypes, ties, and both arithmetics."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from analyze.quantisation.grids import E2M1, E4M3, E5M2, INT8, Grid, round_to_grid, saturate

LIBRARY: dict[str, Any] = {
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
    "E2M1": ml_dtypes.float4_e2m1fn,
}
GRIDS = (E4M3, E5M2, E2M1)
ARITHMETICS = (np.float32, np.float64)


def rounded(values: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """What the values become, and which saturated."""
    result, scratch, beyond = values.copy(), np.empty_like(values), np.empty(values.shape, np.bool_)
    round_to_grid(result, grid, scratch)
    saturate(result, grid, scratch, beyond)
    return result, beyond


def candidates(grid: Grid, arithmetic: Any) -> np.ndarray:
    """Every finite bfloat16 up to a quarter above the largest, every value of the grid, all midpoints, and their
    neighbours in float32."""
    patterns = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    patterns = patterns[np.isfinite(patterns) & (np.abs(patterns) <= grid.largest * 1.25)]
    every = np.arange(1 << (4 if grid is E2M1 else 8), dtype=np.uint8).view(LIBRARY[grid.name]).astype(np.float32)
    every = np.unique(every[np.isfinite(every)])
    middles = (every[1:] + every[:-1]) / 2
    edges = np.concatenate([every, middles])
    around = [np.nextafter(edges, np.float32(towards)) for towards in (-np.inf, np.inf)]
    return np.concatenate([patterns, edges, *around]).astype(arithmetic)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_rounding_is_that_of_the_library(grid: Grid, arithmetic: Any) -> None:
    values = candidates(grid, arithmetic)
    ours, beyond = rounded(values, grid)
    theirs = np.clip(values, -grid.largest, grid.largest).astype(LIBRARY[grid.name]).astype(arithmetic)
    assert np.array_equal(ours, theirs)
    assert values.size > 1000
    # Beyond: what is nearer to the next value that the format would have than to its largest; a tie, to the even one.
    largest = np.unique(theirs)[-2:].tolist()
    step = largest[1] - largest[0]
    middle = grid.largest + step / 2
    up = grid.largest / step % 2 == 1
    assert np.array_equal(beyond, (np.abs(values) > middle) | ((np.abs(values) == middle) & up))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_torch_casts_to_the_same_values(arithmetic: Any) -> None:
    torch = pytest.importorskip("torch")
    for grid, kind in ((E4M3, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)):
        values = candidates(grid, arithmetic)
        values = values[np.abs(values) <= grid.largest]
        theirs = torch.from_numpy(values.astype(np.float32)).to(kind).to(torch.float32).numpy()
        assert np.array_equal(rounded(values, grid)[0], theirs)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_integers_round_half_to_even_and_saturate(arithmetic: Any) -> None:
    values = np.array([0.5, 1.5, -0.5, -2.5, 126.5, 127.4, 127.5, -128.0, 3e9], arithmetic)
    result, beyond = rounded(values, INT8)
    assert result.tolist() == [0, 2, 0, -2, 126, 127, 127, -127, 127]
    assert beyond.tolist() == [False] * 6 + [True] * 3


def test_views_of_groups_are_rounded_in_place() -> None:
    values = np.linspace(-8, 8, 60, dtype=np.float32).reshape(3, 20)
    expected, _ = rounded(values, E2M1)
    groups = values[:, :16].reshape(3, 2, 8)
    round_to_grid(groups, E2M1, np.empty((3, 20), np.float32)[:, :16].reshape(3, 2, 8))
    saturate(groups, E2M1, np.empty_like(groups), np.empty(groups.shape, np.bool_))
    assert np.array_equal(values[:, :16], expected[:, :16])
    assert np.array_equal(values[:, 16:], np.linspace(-8, 8, 60, dtype=np.float32).reshape(3, 20)[:, 16:])
