"""Patterns against values decoded by others: struct, numpy's float16 and ml_dtypes; comparisons in Fractions."""

from __future__ import annotations

import itertools
import math
import struct
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import bits
from schemas.bits import ENCODINGS
from schemas.errors import InputError

ALL = np.arange(65536, dtype=np.uint16)
WITNESS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
names = pytest.mark.parametrize("name", ENCODINGS)
short_names = pytest.mark.parametrize("name", WITNESS)


def value(pattern: int, name: str) -> float:
    """What a pattern stands for, by struct; every value of the three formats is a double."""
    if name == "bfloat16":
        return float(struct.unpack("<f", struct.pack("<I", pattern << 16))[0])
    if name == "float16":
        return float(struct.unpack("<e", struct.pack("<H", pattern))[0])
    return float(struct.unpack("<f", struct.pack("<I", pattern))[0])


def values_of(patterns: np.ndarray, name: str) -> np.ndarray:
    return np.array([value(pattern, name) for pattern in patterns.ravel().tolist()]).reshape(patterns.shape)


def reaches(number: float, magnitude: Fraction) -> bool:
    """``|number| >= magnitude`` in real arithmetic; Python compares floats with Fractions exactly."""
    return not math.isnan(number) and abs(number) >= magnitude


ALL_VALUES = {name: [value(pattern, name) for pattern in range(65536)] for name in WITNESS}

magnitudes = st.one_of(
    st.decimals(min_value=0, max_value=20, places=3).map(Fraction),
    st.decimals(min_value=0, max_value=70000, places=2).map(Fraction),
    st.fractions(min_value=0),
    st.floats(min_value=0, allow_infinity=False, allow_nan=False).map(Fraction),
    st.integers(0, 10**40).map(Fraction),
)


@short_names
def test_every_pattern_decodes_as_another_library_has_it(name: str) -> None:
    decoded = bits.decode(ALL, ENCODINGS[name])
    with np.errstate(invalid="ignore"):
        expected = ALL.view(WITNESS[name]).astype(np.float32)
    assert decoded.dtype == np.float32
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(decoded), nan)
    np.testing.assert_array_equal(decoded.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def test_bfloat16_decodes_bit_for_bit_nan_payloads_too() -> None:
    decoded = bits.decode(ALL, ENCODINGS["bfloat16"])
    np.testing.assert_array_equal(decoded.view(np.uint32), ALL.astype(np.uint32) << 16)
    numbers = ~np.isnan(decoded)
    np.testing.assert_array_equal(decoded[numbers].astype(ml_dtypes.bfloat16).view(np.uint16), ALL[numbers])


@names
def test_decoding_keeps_shape_order_and_scalars(name: str) -> None:
    encoding = ENCODINGS[name]
    stored = np.arange(24).reshape(2, 3, 4).astype(encoding.unsigned).view(encoding.stored)
    for view in (stored, stored.transpose(2, 0, 1), stored[:, ::2], stored[..., :0], stored[1, 2, 3]):
        decoded = bits.decode(view, encoding)
        assert decoded.shape == view.shape
        assert decoded.dtype == np.float32
        flat = np.ascontiguousarray(view).view(encoding.unsigned).ravel()
        assert np.ravel(decoded).tolist() == [value(int(pattern), name) for pattern in flat]


@short_names
def test_every_pattern_orders_like_its_magnitude(name: str) -> None:
    encoding = ENCODINGS[name]
    cleared = bits.magnitude_bits(ALL, encoding)
    assert cleared.max() < encoding.sign_mask
    np.testing.assert_array_equal(cleared[:32768], cleared[32768:])
    finite_or_infinite = [value(pattern, name) for pattern in range(encoding.infinity + 1)]
    assert all(low < high for low, high in itertools.pairwise(finite_or_infinite))
    assert finite_or_infinite[-1] == math.inf
    assert all(math.isnan(value(pattern, name)) for pattern in range(encoding.infinity + 1, 32768))


@short_names
def test_magnitude_value_is_exact_for_every_finite_pattern(name: str) -> None:
    encoding = ENCODINGS[name]
    for pattern in range(encoding.infinity):
        assert bits.magnitude_value(pattern, encoding) == Fraction(value(pattern, name))


@given(st.integers(0, ENCODINGS["float32"].infinity - 1))
def test_magnitude_value_is_exact_in_float32(pattern: int) -> None:
    assert bits.magnitude_value(pattern, ENCODINGS["float32"]) == Fraction(value(pattern, "float32"))


@names
def test_infinity_and_nan_have_no_finite_value(name: str) -> None:
    encoding = ENCODINGS[name]
    for pattern in (encoding.infinity, encoding.nan, encoding.sign_mask, -1):
        with pytest.raises(ValueError, match="not a finite"):
            bits.magnitude_value(pattern, encoding)


@pytest.mark.slow
@short_names
@settings(max_examples=15, deadline=None)
@given(magnitude=magnitudes)
def test_hits_among_all_patterns_are_those_that_reach_the_magnitude(name: str, magnitude: Fraction) -> None:
    encoding = ENCODINGS[name]
    found = bits.hits(ALL, bits.threshold_bits(magnitude, encoding), encoding)
    assert found.tolist() == [reaches(number, magnitude) for number in ALL_VALUES[name]]


@names
@given(magnitude=magnitudes, data=st.data())
def test_a_hit_is_what_reaches_the_magnitude_in_real_arithmetic(
    name: str, magnitude: Fraction, data: st.DataObject
) -> None:
    encoding = ENCODINGS[name]
    threshold = bits.threshold_bits(magnitude, encoding)
    near = st.integers(max(0, threshold - 3), threshold + 3)
    patterns = data.draw(st.lists(st.one_of(near, st.integers(0, 2 * encoding.sign_mask - 1)), min_size=1))
    patterns += [p ^ encoding.sign_mask for p in patterns]
    stored = np.array(patterns, encoding.unsigned).view(encoding.stored)
    expected = [reaches(value(pattern, name), magnitude) for pattern in patterns]
    assert bits.hits(stored, threshold, encoding).tolist() == expected


@names
@given(data=st.data())
def test_the_threshold_of_a_value_is_its_own_pattern_and_of_anything_above_the_next(
    name: str, data: st.DataObject
) -> None:
    encoding = ENCODINGS[name]
    pattern = data.draw(st.integers(0, encoding.infinity - 1))
    exact = Fraction(value(pattern, name))
    tiny = Fraction(1, 10**60)
    assert bits.threshold_bits(exact, encoding) == pattern
    assert bits.threshold_bits(exact + tiny, encoding) == pattern + 1
    if pattern:
        assert bits.threshold_bits(exact - tiny, encoding) == pattern


@names
def test_nothing_finite_reaches_beyond_the_largest_value_but_infinity_does(name: str) -> None:
    encoding = ENCODINGS[name]
    threshold = bits.threshold_bits(Fraction(10) ** 50, encoding)
    assert threshold == encoding.infinity
    stored = np.array([encoding.infinity - 1, encoding.infinity, encoding.nan], encoding.unsigned).view(encoding.stored)
    assert bits.hits(stored, threshold, encoding).tolist() == [False, True, False]


@names
def test_magnitude_zero_is_reached_by_all_but_nan(name: str) -> None:
    encoding = ENCODINGS[name]
    zoo = [0, encoding.sign_mask, 1, encoding.infinity, encoding.nan, encoding.nan | encoding.sign_mask]
    stored = np.array(zoo, encoding.unsigned).view(encoding.stored)
    assert bits.hits(stored, bits.threshold_bits(Fraction(0), encoding), encoding).tolist() == [True] * 4 + [False] * 2


@names
def test_a_negative_magnitude_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="negative"):
        bits.threshold_bits(Fraction(-1, 3), ENCODINGS[name])


def test_an_unknown_encoding_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="bfloat16, float16, float32"):
        bits.encoding_named("float8")


def zoo_arrays(encoding: bits.Encoding) -> st.SearchStrategy[np.ndarray]:
    infinity, sign = encoding.infinity, encoding.sign_mask
    finite = [0, sign, 1, sign | 1, infinity - 1]
    special = st.sampled_from([*finite, infinity, infinity | sign, encoding.nan, encoding.nan | sign, infinity + 1])
    pattern = st.one_of(special, st.integers(0, 2 * encoding.sign_mask - 1))
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
    return shapes.flatmap(
        lambda shape: st.lists(pattern, min_size=math.prod(shape), max_size=math.prod(shape)).map(
            lambda drawn: np.array(drawn, encoding.unsigned).reshape(shape).view(encoding.stored)
        )
    )


@names
@given(data=st.data())
def test_a_peak_is_the_largest_magnitude_that_is_no_nan(name: str, data: st.DataObject) -> None:
    encoding = ENCODINGS[name]
    stored = data.draw(zoo_arrays(encoding))
    axis = data.draw(st.sampled_from([0, 1, 2, (0, 1), (1, 2), (0, 1, 2)]))
    before = stored.copy()
    peak = bits.peak_bits(stored, axis, encoding)
    np.testing.assert_array_equal(stored.view(encoding.unsigned), before.view(encoding.unsigned))
    values = values_of(stored.view(encoding.unsigned), name)
    expected = np.where(np.isnan(values), 0.0, np.abs(values)).max(axis=axis)
    decoded = values_of(np.asarray(peak), name)
    np.testing.assert_array_equal(decoded, expected)
    assert not np.signbit(decoded).any()
    assert bits.nonfinite_count(stored, encoding) == int((~np.isfinite(values)).sum())


@names
def test_a_peak_over_nothing_but_nan_is_zero(name: str) -> None:
    encoding = ENCODINGS[name]
    stored = np.full((3, 2), encoding.nan, encoding.unsigned).view(encoding.stored)
    assert bits.peak_bits(stored, 0, encoding).tolist() == [0, 0]


@names
def test_the_fill_value_is_a_nan(name: str) -> None:
    encoding = ENCODINGS[name]
    filled = np.full(3, encoding.fill, encoding.stored)
    assert filled.view(encoding.unsigned).tolist() == [encoding.nan] * 3
    assert np.isnan(bits.decode(filled, encoding)).all()
