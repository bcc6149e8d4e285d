"""Windows cut from tokenised documents, against an oracle of lists and loops."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.corpus import WindowSettings, cut_windows, parse_overlap
from schemas.errors import InputError

SEPARATOR, BOS = 0, 1
OVERLAPS = [Fraction(0), Fraction(1, 2), Fraction(1, 3), Fraction(29, 100), Fraction(99, 100)]

documents = st.lists(st.lists(st.integers(2, 60), max_size=12), max_size=12)
settings = st.builds(
    WindowSettings, sequences=st.integers(1, 8), length=st.integers(2, 12), overlap=st.sampled_from(OVERLAPS)
)


class Cut(NamedTuple):
    """What the oracle cuts."""

    windows: list[list[int]]
    starts: list[list[bool]]
    read: int


def cut_by_loops(tokenised: list[list[int]], asked: WindowSettings, bos: int | None) -> Cut:
    """Concatenate everything, then slice window by window."""
    stream: list[int] = []
    begins: list[bool] = []
    ends_after: list[int] = []
    for ids in tokenised:
        document = [*ids, SEPARATOR]
        stream += document
        begins += [True] + [False] * (len(document) - 1)
        ends_after.append(len(stream))
    room = asked.length if bos is None else asked.length - 1
    repeated = 0
    while repeated + 1 <= asked.overlap * room:
        repeated += 1
    cut = Cut([], [], 0)
    at = 0
    while len(cut.windows) < asked.sequences and at + room <= len(stream):
        cut.windows.append(([] if bos is None else [bos]) + stream[at : at + room])
        cut.starts.append(([] if bos is None else [False]) + begins[at : at + room])
        at += room - repeated
    if len(cut.windows) < asked.sequences:
        return cut._replace(read=len(tokenised))
    last = at - (room - repeated) + room
    return cut._replace(read=next(number for number, end in enumerate(ends_after, start=1) if end >= last))


@given(tokenised=documents, asked=settings, bos=st.sampled_from([None, BOS]))
def test_windows_are_slices_of_the_joined_documents(
    tokenised: list[list[int]], asked: WindowSettings, bos: int | None
) -> None:
    read = []

    def one_by_one() -> Iterator[list[int]]:
        for ids in tokenised:
            read.append(ids)
            yield ids

    ids, starts, found = cut_windows(one_by_one(), SEPARATOR, asked, bos)
    expected = cut_by_loops(tokenised, asked, bos)
    assert ids.tolist() == expected.windows
    assert starts.tolist() == expected.starts
    assert found == len(expected.windows)
    assert ids.shape == starts.shape == (found, asked.length)
    assert ids.dtype == "int32"
    assert len(read) == expected.read


@given(tokenised=documents, asked=settings)
def test_without_overlap_the_windows_are_the_text(tokenised: list[list[int]], asked: WindowSettings) -> None:
    disjoint = WindowSettings(asked.sequences, asked.length)
    ids, _, found = cut_windows(tokenised, SEPARATOR, disjoint, None)
    joined = [each for document in tokenised for each in (*document, SEPARATOR)]
    assert ids.ravel().tolist() == joined[: found * asked.length]


def test_half_an_overlap_repeats_half_a_window() -> None:
    ids, _, _ = cut_windows([list(range(2, 40))], SEPARATOR, WindowSettings(3, 8, Fraction(1, 2)), None)
    assert ids.tolist() == [list(range(2, 10)), list(range(6, 14)), list(range(10, 18))]


def test_a_window_needs_room_for_text_beside_the_first_token() -> None:
    with pytest.raises(InputError, match="--length 1 leaves no room"):
        cut_windows([[5, 6]], SEPARATOR, WindowSettings(1, 1), BOS)
    assert cut_windows([[5, 6]], SEPARATOR, WindowSettings(1, 1), None)[0].tolist() == [[5]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0%", Fraction(0)),
        ("0", Fraction(0)),
        ("50%", Fraction(1, 2)),
        ("0.5", Fraction(1, 2)),
        ("29%", Fraction(29, 100)),  # int(100 * 0.29) is 28
        ("12.5%", Fraction(1, 8)),
        ("99.9%", Fraction(999, 1000)),
    ],
)
def test_an_overlap_is_an_exact_fraction(text: str, value: Fraction) -> None:
    assert parse_overlap(text) == value


@pytest.mark.parametrize("text", ["", "%", "half", "50%%", "5O%", "nan", "inf", "1/0", "0x10", "1e-400000000"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"write it like 50%"):
        parse_overlap(text)


@pytest.mark.parametrize("text", ["100%", "1", "150%", "50", "-1%", "-0.1"])
def test_an_overlap_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"at least 0% and below 100%"):
        parse_overlap(text)
