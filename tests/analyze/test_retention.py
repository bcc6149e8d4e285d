"""Stores that keep less: the same answers wherever they can answer, and the flag that keeps more where they cannot."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.quantities import decimal_text
from analyze.thresholds.answers import answer
from analyze.thresholds.question import ask
from schemas.bits import ENCODINGS, magnitude_value
from schemas.errors import StoreError
from schemas.retention import parse_retention
from tests.analyze.comparison import content
from tests.analyze.worlds import PRESETS, SHARES, World, worlds
from tests.stores import write_store

FLOORS = ("0.3", "2", "5.97", "6", "6.001", "8.5")
ABOVE = ("0", "0.001", "0.5", "6", "1000")


def on_both(world: World, floor: str, question: dict[str, object]) -> list[list[dict[str, object]]]:
    """What the slices of a whole and of a floored store of ``world`` say."""
    with tempfile.TemporaryDirectory() as folder:
        said = []
        for name, kept in (("whole", None), ("floored", floor)):
            path = Path(folder, name)
            write_store(path, world.sites, world.encoding, position_chunk=world.position_chunk, floor=kept)
            said.append([content(result) for result in answer(path, ask(**question))])  # type: ignore[arg-type]
        return said


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    worlds(),
    st.sampled_from(FLOORS),
    st.lists(st.sampled_from(ABOVE), min_size=1, max_size=3),
    st.sampled_from(SHARES),
    st.sampled_from(PRESETS),
    st.booleans(),
)
def test_at_and_above_the_floor_the_slices_say_the_same(
    world: World, floor: str, above: list[str], share: str, preset: str, details: bool
) -> None:
    magnitudes = ",".join(decimal_text(Fraction(floor) + Fraction(more)) for more in above)
    shares = {"layers": share, "positions": share, "definition": preset}
    question = {"magnitude": magnitudes, "engine": "slices", "details": details, **shares}
    whole, floored = on_both(world, floor, question)
    assert floored == whole


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("floor", ["6", "6.001"])
def test_the_boundary_pattern_is_kept_and_the_one_below_is_not(encoding: str, floor: str, tmp_path: Path) -> None:
    kind = ENCODINGS[encoding]
    pattern = parse_retention(f"floor={floor}").least_pattern(kind)
    at, below = (np.float32(float(magnitude_value(p, kind))) for p in (pattern, pattern - 1))
    values = {"ln_attn": np.array([[[[at, -at, below, -below]]]], np.float32)}
    write_store(tmp_path / "floored.zarr", values, encoding, floor=floor)
    shares = {"layers": "100%", "positions": "100%", "engine": "slices"}
    (result,) = answer(tmp_path / "floored.zarr", ask(floor, **shares))  # type: ignore[arg-type]
    assert [feature.feature for feature in result.features()] == [0, 1]
    # A magnitude between the pattern and the one below it has that same pattern: it can be answered too.
    between = decimal_text((magnitude_value(pattern, kind) + magnitude_value(pattern - 1, kind)) / 2)
    (result,) = answer(tmp_path / "floored.zarr", ask(between, **shares))  # type: ignore[arg-type]
    assert result.outliers == 2
    lower = decimal_text(magnitude_value(pattern - 1, kind))
    with pytest.raises(StoreError, match=f"--magnitude {lower} is below {floor}"):
        answer(tmp_path / "floored.zarr", ask(lower, **shares))  # type: ignore[arg-type]


@pytest.fixture
def floored(tmp_path: Path) -> Path:
    values = np.random.default_rng(3).normal(0, 5, (3, 2, 6, 4)).astype(np.float32)
    write_store(tmp_path / "floored.zarr", {"ln_attn": values}, floor="4")
    write_store(tmp_path / "whole.zarr", {"ln_attn": values})
    return tmp_path / "floored.zarr"


@pytest.mark.parametrize(
    ("flag", "words"), [({"details": True}, "--details"), ({"engine": "slices"}, "--engine slices")]
)
def test_below_the_floor_slices_are_not_asked(floored: Path, flag: dict[str, object], words: str) -> None:
    with pytest.raises(StoreError) as refused:
        answer(floored, ask("3.5:8:0.5", **flag))  # type: ignore[arg-type]
    said = str(refused.value)
    assert "--magnitude 3.5 is below 4" in said
    assert f"was captured with --keep floor=4: its slices, which {words} reads, are zero below that" in said
    assert f"Ask for 4 or more, leave out {words}, or capture the model again with --keep floor=3.5, or slices" in said
    assert refused.value.exit_status == 2


def test_magnitude_0_is_kept_by_whole_slices_alone(floored: Path) -> None:
    with pytest.raises(StoreError, match=r"or capture the model again with --keep slices$"):
        answer(floored, ask("0", details=True))


def test_below_the_floor_peaks_answer(floored: Path) -> None:
    whole = answer(floored.with_name("whole.zarr"), ask("1:8:0.5"))
    assert [content(result) for result in answer(floored, ask("1:8:0.5"))] == [content(result) for result in whole]
    assert whole[0].outliers > whole[-1].outliers
