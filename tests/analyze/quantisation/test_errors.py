"""Every format on small strange tensors against loops in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.quantisation import tensor as tensor_module
from analyze.quantisation.errors import Distinct, tensor_errors
from analyze.quantisation.formats import FORMATS
from analyze.quantisation.tensor import Block, Settings, measure_extent
from tests.analyze.quantisation.oracle import ORACLES, Tensor, oracle_columns, oracle_sums

Array = npt.NDArray[Any]
TYPES: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
ZOO = (0.0, -0.0, 6.0, -6.0, 5.97, 7.9, 1e-3, -1e-7, 0.25, 448.0, -127.0, 1e-40, 65504.0, 3e38, np.nan, np.inf, -np.inf)
COUNTED = ("values", "nonfinite", "nonzero", "flushed", "clipped")


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Array, str]:
    """Up to 4 positions of up to 40 features, as an encoding holds them: plain, strange, constant or all zero."""
    encoding = draw(st.sampled_from(tuple(TYPES)))
    shape = (draw(st.integers(1, 4)), draw(st.sampled_from((1, 2, 7, 16, 17, 32, 40))))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(("plain", "ties", "strange", "constant", "zero", "positive")))
    values = random.standard_t(3, shape) * draw(st.sampled_from((1e-3, 1.0, 40.0)))
    if kind == "ties":  # halves of a step, and a peak that makes the step 1
        values = np.round(random.normal(0, 20, shape) * 2) / 2
        values[0, 0] = draw(st.sampled_from((127.0, 448.0, 6.0)))
    elif kind == "strange":
        values = np.where(random.random(shape) < 0.3, random.choice(ZOO, shape), values)
    elif kind == "constant":
        values = np.full(shape, draw(st.sampled_from(ZOO)))
    elif kind == "zero":
        values = np.zeros(shape)
    elif kind == "positive":
        values = np.abs(values) + 3
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(TYPES[encoding]).astype(np.float32), encoding


def limits(group: int, alpha: str) -> Settings:
    return Settings(group, np.float32(alpha))


@settings(max_examples=30, deadline=None)
@given(tensors(), st.sampled_from((3, 16, 128, 10**12)), st.sampled_from(("6", "0.5", "127")))
@pytest.mark.parametrize("name", FORMATS)
def test_what_values_become(name: str, made: tuple[Array, str], group: int, alpha: str) -> None:
    values, encoding = made
    finite = np.isfinite(values)
    extent = measure_extent(values, np.float32(alpha))
    wide = encoding == "float32" or FORMATS[name].double or extent.peak >= 2.0**110
    block = Block(np.where(finite, values, 0).astype(np.float64 if wide else np.float32), finite)
    out, scratch = np.empty_like(block.values), np.empty_like(block.values)
    clipped = FORMATS[name].kernel(block, extent, limits(group, alpha), out, scratch)
    expected = ORACLES[name](Tensor(values), group, Fraction(alpha))
    beyond = set() if clipped is None else {(int(t), int(j)) for t, j in np.argwhere(clipped & finite)}
    assert beyond == expected.clipped
    for place, value in expected.values.items():
        # Nearer by far than the next value of any grid: what was rounded to is exact, its size in float32 or better.
        assert abs(Fraction(float(out[place])) - value) <= abs(value) / 2**22 + Fraction(1, 2**149)
        assert (out[place] == 0) == (value == 0) or abs(value) < Fraction(1, 2**149)


@settings(max_examples=15, deadline=None)
@given(tensors(), st.integers(0, 3), st.booleans())
def test_sums_are_the_oracles(made: tuple[Array, str], first: int, once: bool) -> None:
    values, encoding = made
    position = np.arange(first, first + values.shape[0])
    distinct = None
    if once and encoding != "float32":
        kinds = np.unique(values[np.isfinite(values)])
        counts = [[int((values[rows] == kind).sum()) for rows in (position == 0, position != 0)] for kind in kinds]
        distinct = Distinct(kinds, np.array(counts, np.int64).reshape(-1, 2))
    names = tuple(FORMATS)
    found = tensor_errors(
        values, position, tuple(FORMATS.values()), limits(16, "6"), double=encoding == "float32", distinct=distinct
    )
    for where, rows in enumerate((np.flatnonzero(position == 0), np.flatnonzero(position != 0))):
        for i, name in enumerate(names):
            expected = oracle_sums(values, ORACLES[name](Tensor(values), 16, Fraction(6)), rows.tolist())
            for quantity, value in expected.items():
                ours = found[quantity][(i, where) if found[quantity].ndim == 2 else where]
                if quantity in COUNTED:
                    assert int(ours) == value, (name, quantity)
                else:
                    peak = float(np.abs(values[np.isfinite(values)]).max(initial=0))
                    unit = peak if quantity in ("error", "magnitude") else peak**2
                    assert float(ours) == pytest.approx(value, rel=2e-4, abs=unit * 2e-8 + 1e-300), (name, quantity)


@settings(max_examples=50, deadline=None)
@given(tensors(), st.sampled_from(("6", "0.5", "7.9")))
def test_outlier_columns_are_those_of_the_definition(made: tuple[Array, str], alpha: str) -> None:
    values, _ = made
    threshold = np.float32(alpha)
    if Fraction(float(threshold)) < Fraction(alpha):
        threshold = np.nextafter(threshold, np.float32(np.inf))
    extent = measure_extent(values, threshold)
    assert int(extent.outliers.sum()) == oracle_columns(values, Fraction(alpha))


def test_blocks_change_nothing_but_the_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    values = random.standard_t(3, (50, 40)).astype(ml_dtypes.bfloat16).astype(np.float32)
    position, formats = np.arange(50), tuple(FORMATS.values())
    whole = tensor_errors(values, position, formats, limits(16, "6"))
    monkeypatch.setattr(tensor_module, "BLOCK_VALUES", 130)
    parts = tensor_errors(values, position, formats, limits(16, "6"))
    for name, found in whole.items():
        if name in COUNTED:
            assert np.array_equal(found, parts[name])
        else:
            np.testing.assert_allclose(found, parts[name], rtol=1e-13)


def test_distinct_values_give_what_all_values_give() -> None:
    random = np.random.default_rng(4)
    values = random.standard_t(3, (64, 96)).astype(ml_dtypes.bfloat16).astype(np.float32)
    position = np.arange(64)
    kinds, inverse = np.unique(values, return_inverse=True)
    first = np.bincount(inverse.reshape(values.shape)[0], minlength=kinds.size)
    counts = np.stack([first, np.bincount(inverse.ravel(), minlength=kinds.size) - first], axis=1)
    formats = tuple(FORMATS.values())
    plain = tensor_errors(values, position, formats, limits(128, "6"))
    once = tensor_errors(values, position, formats, limits(128, "6"), distinct=Distinct(kinds, counts))
    for name, found in plain.items():
        if name in COUNTED:
            assert np.array_equal(found, once[name])
        else:
            np.testing.assert_allclose(found, once[name], rtol=1e-6)


def test_a_tensor_without_rows_sums_to_nothing() -> None:
    found = tensor_errors(np.empty((0, 5), np.float32), np.arange(0), tuple(FORMATS.values()), limits(128, "6"))
    assert all(not array.any() for array in found.values())
