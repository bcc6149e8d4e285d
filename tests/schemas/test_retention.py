"""What ``--keep`` takes and the attribute ``retention`` holds: read exactly, refused with what to write instead."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.bits import ENCODINGS, Encoding, magnitude_value
from schemas.errors import InputError, StoreError
from schemas.retention import WHOLE, Retention, parse_retention
from schemas.run import Run
from tests.stores import write_store


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slices", "slices"), ("peaks", "peaks"), ("floor=6", "floor=6"), ("floor=6.00", "floor=6"),
        ("floor=0060.50", "floor=60.5"), ("floor=.5", "floor=0.5"), ("floor=1e2", "floor=100"),
        ("floor=5e-3", "floor=0.005"),
    ],
)  # fmt: skip
def test_equal_retentions_read_the_same(text: str, said: str) -> None:
    assert str(parse_retention(text)) == said
    assert parse_retention(said) == parse_retention(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("all", "--keep all: not known; give slices, floor=M"),
        ("floor", "'' is no magnitude"),
        ("floor=-1", "'-1' is no magnitude"),
        ("floor=nan", "'nan' is no magnitude"),
        ("floor=1/3", "'1/3' is no magnitude"),
        ("floor=0.0", "that is --keep slices"),
        ("floor=1e999", "from 1e-60 to 1e60"),
        ("Floor=6", "not known"),
    ],
)
def test_anything_else_is_refused(text: str, part: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_retention(text)
    assert part in str(refused.value)


@given(st.decimals(min_value="1e-8", max_value="1e6", places=8), st.sampled_from(list(ENCODINGS.values())))
def test_the_least_pattern_is_the_first_that_is_not_below_the_floor(floor: object, encoding: Encoding) -> None:
    retention = parse_retention(f"floor={floor:f}")
    pattern = retention.least_pattern(encoding)
    wanted = Fraction(str(floor))
    assert pattern == encoding.infinity or magnitude_value(pattern, encoding) >= wanted
    assert magnitude_value(pattern - 1, encoding) < wanted


def test_nothing_is_below_the_floor_of_whole_slices() -> None:
    assert [WHOLE.least_pattern(encoding) for encoding in ENCODINGS.values()] == [0, 0, 0]
    assert Retention(slices=False).least_pattern(ENCODINGS["float32"]) == 0


def test_a_store_says_what_it_keeps(tmp_path: Path) -> None:
    values = {"ln_attn": np.array([[[[1.0, -7.0, math.nan, -math.inf]]]], np.float32)}
    write_store(tmp_path / "whole.zarr", values)
    write_store(tmp_path / "floor.zarr", values, floor="6.5")
    write_store(tmp_path / "peaks.zarr", values, slices=False)
    assert Run(tmp_path / "whole.zarr").retention == WHOLE
    assert Run(tmp_path / "floor.zarr").retention == Retention(floor="6.5")
    assert Run(tmp_path / "peaks.zarr").retention == Retention(slices=False)
    bits = Run(tmp_path / "floor.zarr").read("ln_attn").ravel().tolist()
    assert bits[:2] == [0, 0xC0E0]


def test_a_store_of_format_1_0_keeps_whole_slices(tmp_path: Path) -> None:
    write_store(tmp_path / "old.zarr", {"ln_attn": np.ones((1, 1, 1, 1), np.float32)})
    root = tmp_path / "old.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"1.1"', '"1.0"').replace('"retention": "slices",', ""))
    assert "retention" not in root.read_text()
    assert Run(tmp_path / "old.zarr").retention == WHOLE


def test_a_retention_of_a_later_version_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "new.zarr", {"ln_attn": np.ones((1, 1, 1, 1), np.float32)})
    root = tmp_path / "new.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"retention": "slices"', '"retention": "every other"'))
    with pytest.raises(StoreError, match=r"keeps 'every other' of its slices.*Upgrade it"):
        Run(tmp_path / "new.zarr")
