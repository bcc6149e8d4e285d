"""The knobs that say what of a store an answer is of, and how many hits make a layer count: as typed, and exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass

from analyze.quantities import counted, parse_share
from analyze.thresholds.definitions import Minimum
from schemas.errors import InputError

__all__ = [
    "LAYER_UNITS",
    "POSITION_COVERAGES",
    "SCOPES",
    "Range",
    "parse_layers_range",
    "parse_minimum_hits",
    "parse_positions_range",
]

LAYER_UNITS = ("cell", "block")
SCOPES = ("sequence", "pooled")
POSITION_COVERAGES = ("union", "mean", "density")

_MOST_HITS = 10**12
_PART = re.compile(r"([0-9]{1,9})?:([0-9]{1,9})?|([0-9]{1,9})")


@dataclass(frozen=True)
class Range:
    """Parts of 0 to n - 1, each from a number to before another (None: to the end), as ``text`` says."""

    text: str
    parts: tuple[tuple[int, int | None], ...]
    flag: str
    noun: str

    def of(self, total: int, where: str) -> tuple[int, ...]:
        """The numbers it takes of ``total``, ascending; raises InputError where it takes one that is not there.

        >>> parse_layers_range("0,2:4,6:").of(8, "tiny.zarr")
        (0, 2, 3, 6, 7)
        """
        found: set[int] = set()
        for start, stop in self.parts:
            end = total if stop is None else stop
            if not start < end <= total:
                raise InputError(
                    f"{self.flag} {self.text} is out of range: {where} has {counted(total, self.noun)}, "
                    f"0 to {total - 1}"
                )
            found.update(range(start, end))
        return tuple(sorted(found))


def parse_minimum_hits(text: str | int) -> Minimum:
    """The minimum of ``1``, ``5``, ``2%``, ``0.02`` or ``1/50``; a whole number is a count, anything else a share.

    Raises InputError for what is neither.

    >>> parse_minimum_hits("6%").of(2048), parse_minimum_hits("3").of(2048)
    (123, 3)
    """
    typed = str(text).strip()
    if re.fullmatch(r"[0-9]{1,13}", typed):
        count = int(typed)
        if not 1 <= count <= _MOST_HITS:
            raise InputError(
                f"--minimum-hits {typed} is out of range: a layer is affected by at least 1 hit, so write 1 or more"
            )
        return Minimum(typed, count)
    share = parse_share(typed, "--minimum-hits")
    return Minimum(share.text, 1, share.value)


def parse_layers_range(given: str | int) -> Range:
    """The layers of ``4:``, ``:12``, ``4:12``, ``5``, or several of those with commas; raises InputError otherwise."""
    text = str(given)
    return _range(text, "--layers-range", "layer", tuple(part.strip() for part in text.split(",")))


def parse_positions_range(given: str | int) -> Range:
    """The positions of ``1:``, ``:512`` or ``1:512``; raises InputError for anything else.

    >>> parse_positions_range("1:").parts
    ((1, None),)
    """
    text = str(given)
    return _range(text, "--positions-range", "position", (text.strip(),))


def _range(text: str, flag: str, noun: str, typed: tuple[str, ...]) -> Range:
    parts: list[tuple[int, int | None]] = []
    for one in typed:
        form = _PART.fullmatch(one)
        if form is None:
            several = ", or several of those with commas" if noun == "layer" else ""
            raise InputError(
                f"{flag} {text[:40]!r} is not a range: write START:STOP, with START the first {noun}, counted from 0, "
                f"and STOP the one after the last; 4: is all from {noun} 4 on{several}"
            )
        start, stop, single = form.groups()
        if single is not None:
            parts.append((int(single), int(single) + 1))
            continue
        ends = (int(start or 0), None if stop is None else int(stop))
        if ends[1] is not None and ends[0] >= ends[1]:
            raise InputError(f"{flag} {text[:40]!r} is empty: START:STOP has STOP above START, as in 4:12")
        parts.append(ends)
    return Range(",".join(typed), tuple(parts), flag, noun)
