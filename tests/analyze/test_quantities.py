"""What is typed becomes exactly that number, or an error that says what to type instead."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyze.quantities import MAX_MAGNITUDES, decimal_text, parse_magnitudes, parse_share
from schemas.errors import InputError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("6", "6"),
        (" 6.0 ", "6"),
        ("6e0", "6"),
        ("4,6,8", "4 6 8"),
        ("8,4,8.0,6", "8 4 6"),
        ("2:3:0.25", "2 9/4 5/2 11/4 3"),
        ("2:3:0.4", "2 12/5 14/5"),
        ("0:0.3:0.1", "0 1/10 1/5 3/10"),
        ("6:6:1", "6"),
        ("1,2:3:1", "1 2 3"),
        ("0.1", "1/10"),
        (".5", "1/2"),
        ("1e60,1e-60", f"{10**60} 1/{10**60}"),
    ],
)
def test_magnitudes_are_exact(text: str, told: str) -> None:
    assert parse_magnitudes(text) == tuple(Fraction(one) for one in told.split())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not a number"),
        ("six", "'six' is not a number"),
        ("6,", "'' in '6,' is not a number"),
        ("nan", "is not a number"),
        ("inf", "is not a number"),
        ("1e9999", "is not a number"),
        ("1_000", "is not a number"),
        ("٦", "is not a number"),
        ("6 6", "is not a number"),
        ("-6", "'-6' is negative"),
        ("4,-6", "'-6' in '4,-6' is negative"),
        ("1e200", "is out of range"),
        ("1.001e60", "a magnitude is 0, or from 1e-60 to 1e60"),
        ("1e-200", "is out of range"),
        ("2:12", "write START:STOP:STEP"),
        ("2:12:1:1", "write START:STOP:STEP"),
        ("2:12:0", "has a step of 0"),
        ("2:12:-1", "'-1' in '2:12:-1' is negative"),
        ("12:2:1", "stops below its start"),
        ("2:nan:1", "'nan' in '2:nan:1' is not a number"),
        ("0:1:0.00001", "makes 100,001 magnitudes; the limit is 10,000"),
        ("0:1e50:1", "magnitudes; the limit is 10,000"),
        ("9" * 5000, "is not a number"),
    ],
)
def test_a_malformed_magnitude_is_named_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_magnitudes(text)
    assert str(raised.value).startswith("--magnitude ")
    assert told in str(raised.value)
    assert len(str(raised.value)) < 300


def test_parts_of_a_list_count_together() -> None:
    assert len(parse_magnitudes(f"1:{MAX_MAGNITUDES}:1")) == MAX_MAGNITUDES
    with pytest.raises(InputError, match="the limit is 10,000"):
        parse_magnitudes(f"1:{MAX_MAGNITUDES}:1,0.5")


@given(st.integers(0, 400), st.integers(0, 400), st.integers(1, 50))
def test_a_range_holds_every_step_up_to_its_stop(start: int, more: int, step: int) -> None:
    """In hundredths; the stop is there exactly when a step lands on it."""
    texts = (decimal_text(Fraction(n, 100)) for n in (start, start + more, step))
    found = parse_magnitudes(":".join(texts))
    assert [magnitude * 100 for magnitude in found] == list(range(start, start + more + 1, step))


@given(st.decimals(min_value=0, max_value=1000, places=6))
def test_decimal_text_reads_back(value: object) -> None:
    exact = Fraction(str(value))
    assert Fraction(decimal_text(exact)) == exact


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("25%", "1/4"),
        ("6%", "3/50"),
        ("0.25", "1/4"),
        ("1/4", "1/4"),
        (" 7 % ", "7/100"),
        ("100%", "1"),
        ("1", "1"),
        ("12.5%", "1/8"),
        (".5", "1/2"),
    ],
)
def test_shares_are_exact(text: str, told: str) -> None:
    share = parse_share(text, "--layers")
    assert (share.value, share.text) == (Fraction(told), text.strip())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("25", "is more than the whole: a share is at most 100%; did you mean 25%?"),
        ("101%", "is more than the whole"),
        ("5/4", "is more than the whole"),
        ("0", "is nothing"),
        ("0%", "is nothing"),
        ("-5%", "is not a share"),
        ("abc", "'abc' is not a share"),
        ("", "is not a share"),
        ("%", "is not a share"),
        ("5%%", "is not a share"),
        ("nan", "is not a share"),
        ("1e-2", "is not a share"),
        ("1/0", "divides by zero"),
        ("1//2", "is not a share"),
        ("٥%", "is not a share"),
    ],
)
def test_a_malformed_share_is_named_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_share(text, "--positions")
    assert str(raised.value).startswith("--positions ")
    assert told in str(raised.value)


@given(st.integers(1, 1000), st.integers(1, 5000))
def test_a_share_of_a_total_is_the_least_count_that_reaches_it(thousandths: int, total: int) -> None:
    count = parse_share(f"{thousandths}/1000", "--layers").of(total)
    assert count * 1000 >= thousandths * total > (count - 1) * 1000


def test_a_share_is_not_taken_in_floating_point() -> None:
    assert parse_share("7%", "--positions").of(100) == 7 != math.ceil(0.07 * 100)
