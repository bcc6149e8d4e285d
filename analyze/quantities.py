"""Magnitudes and shares as they are typed, as exact fractions (``6``, ``2:12:0.25``, ``25%``), and counts in words.

Nothing here rounds: ``ceil(0.07 * 100)`` in floating point is 8, and that is the bug this file exists to avoid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

from schemas.errors import InputError

__all__ = [
    "MAX_MAGNITUDES",
    "Magnitudes",
    "Share",
    "ShareWords",
    "counted",
    "decimal_list",
    "decimal_text",
    "magnitude_words",
    "parse_magnitudes",
    "parse_share",
    "require_decimals",
]

MAX_MAGNITUDES = 10_000
"""Most magnitudes of one question."""

Magnitudes = str | float | Fraction | Decimal | Iterable["float | str | Fraction | Decimal"]
"""One or several, as text or as numbers."""

_LEAST_MAGNITUDE, _LARGEST_MAGNITUDE = Decimal("1e-60"), Decimal("1e60")

_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_MOST_CHARACTERS = 80


@dataclass(frozen=True)
class Share:
    """A share of layers or positions: as it was typed, and exactly."""

    text: str
    value: Fraction

    def of(self, total: int) -> int:
        """The smallest count that is at least this share of ``total``.

        >>> parse_share("7%", "--positions").of(100)
        7
        """
        return math.ceil(self.value * total)


def counted(count: int, noun: str) -> str:
    """A count and what it counts.

    >>> counted(1, "sequence"), counted(1020, "loss")
    ('1 sequence', '1,020 losses')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def decimal_text(value: Fraction) -> str:
    """A fraction whose denominator divides a power of ten, written out: ``6``, ``2.25``.

    >>> decimal_text(Fraction(9, 4))
    '2.25'
    """
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str(int(value * 10**places)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


ShareWords = str | float | Fraction | Decimal
"""A share as text, or a number: a float is the shortest decimal that reads back as it."""


def parse_share(given: ShareWords, flag: str) -> Share:
    """The share written as a percentage, a decimal or a fraction; raises InputError unless it is in (0, 1].

    >>> parse_share("25%", "--layers").value, parse_share("1/4", "--layers").value
    (Fraction(1, 4), Fraction(1, 4))
    >>> parse_share(0.07, "--layers") == parse_share("0.07", "--layers")
    True
    """
    text = given if isinstance(given, str) else _share_text(given)
    typed = text.strip()
    form = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(%?)|([0-9]+)/([0-9]+)", typed)
    if form is None or len(typed) > _MOST_CHARACTERS:
        raise InputError(f"{flag} {_shown(text)} is not a share: write a percentage such as 25%, or 0.25, or 1/4")
    number, percent, above, below = form.groups()
    if number is not None:
        value = Fraction(number) / (100 if percent else 1)
    else:
        if int(below) == 0:
            raise InputError(f"{flag} {text!r} divides by zero: write a percentage such as 25%, or 0.25, or 1/4")
        value = Fraction(int(above), int(below))
    if value <= 0:
        raise InputError(f"{flag} {text!r} is nothing: a share is more than 0, for example 25%")
    if value > 1:
        meant = f"; did you mean {typed}%?" if number is not None and not percent and value <= 100 else ""
        raise InputError(f"{flag} {text!r} is more than the whole: a share is at most 100%{meant}")
    return Share(typed, value)


def _share_text(given: object) -> str:
    """A number as it would be typed, without an exponent."""
    if isinstance(given, Fraction):
        return str(given)
    if isinstance(given, bool) or not isinstance(given, Real | Decimal):
        return repr(given)
    if isinstance(given, Integral):
        return str(int(given))
    decimal = given if isinstance(given, Decimal) else Decimal(repr(float(given)))
    plain = decimal.is_finite() and abs(decimal.adjusted()) < _MOST_CHARACTERS
    return f"{decimal:f}" if plain else str(decimal)


def magnitude_words(magnitudes: Magnitudes) -> str:
    """Magnitudes as ``ask`` takes them: text as it is, a float as the shortest decimal that reads back as it.

    >>> magnitude_words([6, 2.5, Fraction(1, 8)])
    '6,2.5,0.125'
    """
    if isinstance(magnitudes, str):
        return magnitudes
    if isinstance(magnitudes, float | Real | Decimal):
        return _number_words(magnitudes)
    words = [one if isinstance(one, str) else _number_words(one) for one in magnitudes]
    if not words:
        raise InputError("no magnitudes were given: write one as 6, a list as [4, 6, 8] or a range as '2:12:0.25'")
    return ",".join(words)


def _is_decimal(number: Fraction) -> bool:
    left = number.denominator
    for prime in (2, 5):
        while left % prime == 0:
            left //= prime
    return left == 1


def _number_words(number: Any) -> str:
    if isinstance(number, Fraction):
        if not _is_decimal(number):
            raise InputError(f"magnitude {number} is no decimal: give it as one, for example {float(number):.6g}")
        return decimal_text(number) if number >= 0 else str(float(number))
    if isinstance(number, Decimal):
        return str(number)
    return str(int(number)) if isinstance(number, Integral) else repr(float(number))


def parse_magnitudes(text: str) -> tuple[Fraction, ...]:
    """The magnitudes of ``6``, of a list ``4,6,8`` or of a range ``START:STOP:STEP``, exactly, each once, in order.

    A range holds STOP when a step lands on it. Raises InputError for what is no number, negative, not finite, a
    step that is not positive, or more than ``MAX_MAGNITUDES`` of them.

    >>> [str(magnitude) for magnitude in parse_magnitudes("2:3:0.25")]
    ['2', '9/4', '5/2', '11/4', '3']
    """
    found: dict[Fraction, None] = {}
    for part in text.split(","):
        ends = part.split(":")
        if len(ends) == 1:
            found[_magnitude(part, text)] = None
        elif len(ends) == 3:
            start, stop, step = (_magnitude(end, text) for end in ends)
            found.update(dict.fromkeys(_range(part, start, stop, step)))
        else:
            raise InputError(f"--magnitude {_shown(part)} is not a range: write START:STOP:STEP, for example 2:12:0.25")
        if len(found) > MAX_MAGNITUDES:
            raise _too_many(part, len(found))
    return tuple(found)


def _range(part: str, start: Fraction, stop: Fraction, step: Fraction) -> list[Fraction]:
    if step == 0:
        raise InputError(f"--magnitude {_shown(part)} has a step of 0: write START:STOP:STEP, for example 2:12:0.25")
    if stop < start:
        raise InputError(f"--magnitude {_shown(part)} stops below its start: write it from small to large, 2:12:0.25")
    count = (stop - start) // step + 1
    if count > MAX_MAGNITUDES:
        raise _too_many(part, count)
    return [start + step * i for i in range(count)]


def _too_many(part: str, count: int) -> InputError:
    return InputError(
        f"--magnitude {_shown(part)} makes {count:,} magnitudes; the limit is {MAX_MAGNITUDES:,}: take a larger step"
    )


def _magnitude(text: str, whole: str) -> Fraction:
    typed = text.strip()
    where = "" if text == whole else f" in {_shown(whole)}"
    if _DECIMAL.fullmatch(typed) is None or len(typed) > _MOST_CHARACTERS:
        raise InputError(
            f"--magnitude {_shown(text)}{where} is not a number: write one as 6, a list as 4,6,8 "
            "or a range as 2:12:0.25"
        )
    decimal = Decimal(typed)
    if decimal < 0:
        raise InputError(f"--magnitude {_shown(text)}{where} is negative: a magnitude is 0 or more")
    if decimal and not _LEAST_MAGNITUDE <= decimal <= _LARGEST_MAGNITUDE:
        raise InputError(f"--magnitude {_shown(text)}{where} is out of range: a magnitude is 0, or from 1e-60 to 1e60")
    return Fraction(decimal)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def decimal_list(given: Any, what: str) -> tuple[str, ...]:
    """``given`` as text, each a decimal as it would be typed; raises InputError for what is no list of them.

    >>> decimal_list([6, 6.1, "7.50"], "magnitudes")
    ('6', '6.1', '7.50')
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"{what}={given!r} is no list of them: write {what}=({given!r},)")
    return tuple(_number_words(one) if isinstance(one, Real | Decimal) else one for one in given)


def require_decimals(texts: Iterable[object], what: str, most: Fraction | None = None) -> None:
    """Raise InputError, naming the value, unless each is a decimal from 0 to ``most``; ``what`` is what they are."""
    for given in texts:
        try:
            value: Fraction | None = Fraction(given)  # type: ignore[call-overload]
        except (ValueError, TypeError, ZeroDivisionError, OverflowError):
            value = None
        if value is None or not _is_decimal(value):
            raise InputError(f"{what} {given!r} is no decimal: write one as text, for example '0.5'")
        if value < 0 or (most is not None and value > most):
            limit = "0 or more" if most is None else f"from 0 to {most}"
            raise InputError(f"there is no {what} {given}: it is {limit}")
