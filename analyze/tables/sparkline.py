"""Counts as a line of bars, in text."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["BARS", "PLAIN_BARS", "sparkline"]

BARS = "·▁▂▃▄▅▆▇█"
PLAIN_BARS = ".-:=+*%#@"
"""What stands for none, and eight heights: with block elements, and for terminals that have only ASCII."""

WIDEST = 60


def sparkline(counts: Sequence[int], bars: str = BARS) -> str:
    """A bar for each of ``counts``, or for 60 of them evenly apart, its height the logarithm of one plus the count.

    The first of ``bars`` stands for 0, the last for the largest count.

    >>> sparkline([143, 60, 16, 16, 1, 0])
    '█▇▅▅▂·'
    >>> sparkline([143, 60, 16, 16, 1, 0], PLAIN_BARS)
    '@#**:.'
    """
    if len(counts) > WIDEST:
        counts = [counts[round(i * (len(counts) - 1) / (WIDEST - 1))] for i in range(WIDEST)]
    largest = math.log1p(max(counts, default=0))
    highest = len(bars) - 1
    return "".join(bars[math.ceil(highest * math.log1p(count) / largest) if count else 0] for count in counts)
