"""What a run keeps of its slices: all values, those that reach a floor, or none; peaks are exact in each case."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from schemas.bits import Encoding, threshold_bits
from schemas.errors import InputError

__all__ = ["WHOLE", "Retention", "parse_retention"]

_DECIMAL = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?|\.[0-9]+([eE][+-]?[0-9]{1,3})?")
_MOST_CHARACTERS = 80


@dataclass(frozen=True)
class Retention:
    """``slices``: whether there are any. ``floor``: their values below it are zero; a decimal, None where all are kept.

    As text it is what ``--keep`` takes and the attribute ``retention`` holds.
    """

    slices: bool = True
    floor: str | None = None

    def __str__(self) -> str:
        """``slices``, ``floor=6`` or ``peaks``."""
        if self.floor is not None:
            return f"floor={self.floor}"
        return "slices" if self.slices else "peaks"

    def least_pattern(self, encoding: Encoding) -> int:
        """The smallest sign-cleared pattern that slices keep: that of ``floor``, 0 where all are kept.

        >>> from schemas.bits import ENCODINGS
        >>> hex(parse_retention("floor=6").least_pattern(ENCODINGS["bfloat16"]))
        '0x40c0'
        """
        return 0 if self.floor is None else threshold_bits(Fraction(self.floor), encoding)

    def keeps(self, magnitude: Fraction, encoding: Encoding) -> bool:
        """Whether slices keep every value that reaches ``magnitude``: the smallest stored value that does is kept.

        So a floor answers a magnitude a little below it, where no stored value lies between the two.

        >>> from schemas.bits import ENCODINGS
        >>> [parse_retention("floor=4").keeps(Fraction(m), ENCODINGS["bfloat16"]) for m in ("4", "3.99", "3.98")]
        [True, True, False]
        """
        return self.slices and threshold_bits(magnitude, encoding) >= self.least_pattern(encoding)


WHOLE = Retention()
"""Slices with all their values."""


def parse_retention(text: str) -> Retention:
    """What ``slices``, ``floor=M`` or ``peaks`` says; raises InputError for anything else. Equal floors read the same.

    >>> str(parse_retention("floor=6.50"))
    'floor=6.5'
    """
    if text == "slices":
        return WHOLE
    if text == "peaks":
        return Retention(slices=False)
    name, _, magnitude = text.partition("=")
    if name != "floor":
        raise InputError(f"--keep {text}: not known; give slices, floor=M (for example floor=4) or peaks")
    if len(magnitude) > _MOST_CHARACTERS or not _DECIMAL.fullmatch(magnitude):
        raise InputError(f"--keep {text}: {magnitude!r} is no magnitude; write a decimal, for example floor=4")
    decimal = Decimal(magnitude)
    if not decimal:
        raise InputError(f"--keep {text}: a floor of 0 keeps every value; that is --keep slices")
    if not Decimal("1e-60") <= decimal <= Decimal("1e60"):
        raise InputError(f"--keep {text}: a floor is from 1e-60 to 1e60")
    floor = format(decimal, "f")
    return Retention(floor=floor.rstrip("0").rstrip(".") if "." in floor else floor)
