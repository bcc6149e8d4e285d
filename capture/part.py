"""The part of a store that one process fills: ``--sequences 0:8``. Workers that fill other parts share the store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import InputError

__all__ = ["DEFAULT_SEQUENCES", "Part", "parse_part", "whole_command"]

DEFAULT_SEQUENCES = 16
"""Sequences of a store where nothing says how many."""

_FORM = re.compile(r"(-?[0-9]{1,9})(?::([0-9]{1,9})(?:/([0-9]{1,9}))?)?")


@dataclass(frozen=True)
class Part:
    """Sequences ``start`` up to, but not including, ``stop``, of a store of ``whole``."""

    start: int
    stop: int
    whole: int

    def __str__(self) -> str:
        """``0:8 of 16``."""
        return f"{self.start}:{self.stop} of {self.whole}"

    @property
    def sequences(self) -> range:
        """Those of the part."""
        return range(self.start, self.stop)

    @property
    def is_whole(self) -> bool:
        """True where the part is the store."""
        return len(self.sequences) == self.whole

    def require_whole_batches(self, batch_size: int) -> None:
        """Raise InputError unless the part begins and ends where batches do.

        A sequence's bits depend on its company, so a batch that a cut goes through would be computed on both sides.
        """
        first, last = self.start // batch_size * batch_size, min(-(-self.stop // batch_size) * batch_size, self.whole)
        if (first, last) != (self.start, self.stop):
            raise InputError(
                f"--sequences {self.start}:{self.stop} cuts a batch: batches of {batch_size} begin at multiples of "
                f"{batch_size}. Use --sequences {first}:{last}, or another --batch-size for the whole store"
            )


def parse_part(text: str, held: int | None) -> Part:
    """What ``N``, ``A:B`` or ``A:B/N`` asks for; N is the whole store. Raises InputError for anything else.

    Without N it is ``held``, the sequences of the store that is there, or 16 where that is None.

    >>> str(parse_part("0:8/32", None)), str(parse_part("0:8", 64)), str(parse_part("4", 64))
    ('0:8 of 32', '0:8 of 64', '0:4 of 4')
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise InputError(f"--sequences {text}: write a number, 16, or a part of it, 0:8 or 0:8/16")
    first, stop, whole = (None if number is None else int(number) for number in form.groups())
    assert first is not None
    if stop is None:
        first, stop, whole = 0, first, first
    elif whole is None:
        whole = held or DEFAULT_SEQUENCES
    if whole < 1:
        raise InputError(f"--sequences {text}: must be at least 1")
    if not 0 <= first < stop:
        raise InputError(f"--sequences {text}: a part A:B goes from A up to, but not including, a larger B")
    if stop > whole:
        told = "the store has" if held == whole else "there are"
        raise InputError(
            f"--sequences {text}: {told} {whole}, so B is at most {whole}; for a store of more write {first}:{stop}/N"
        )
    return Part(first, stop, whole)


def whole_command(command: Sequence[str], part: Part) -> tuple[str, ...]:
    """``command`` for all sequences, where it is for a part: what the store records, and what finishes it.

    >>> whole_command(("capture", "--sequences", "0:8", "-q"), Part(0, 8, 16))
    ('capture', '--sequences', '16', '-q')
    """
    if part.is_whole:
        return tuple(command)
    words: list[str] = []
    for word in command:
        if words and words[-1] == "--sequences":
            word = str(part.whole)
        elif word.startswith("--sequences="):
            word = f"--sequences={part.whole}"
        words.append(word)
    return tuple(words)
