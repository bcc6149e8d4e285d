"""Names and numbers as a figure shows them."""

from __future__ import annotations

import re
import unicodedata

from analyze.tables.printable import printable

__all__ = ["file_part", "hits_words", "name_words", "number", "shortened"]

_MARK = "\u200e"
"""Left to right is what stands beside it. The font has it, of no width, and has no isolates."""


def shortened(text: str, most: int) -> str:
    """A printable name of at most ``most`` characters, its middle left out where it is longer: ends tell models apart.

    >>> shortened("a-model-with-a-rather-long-name", 15)
    'a-model…ng-name'
    """
    text = printable(text)
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def name_words(label: str, most: int) -> str:
    """A store's label among other words: one that is read from right to left turns nothing beside it.

    >>> name_words("olmoe-1b-7b", 9), name_words("\u05d0\u05d1", 9)
    ('olmo…b-7b', '\u200e\u05d0\u05d1\u200e')
    """
    text = shortened(label, most)
    turned = any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in text)
    return f"{_MARK}{text}{_MARK}" if turned else text


def number(value: float) -> str:
    """A tick's number: from 100,000 on thousands as k, millions as M, billions as B.

    >>> [number(v) for v in (0, 0.25, 20, 30_000, 150_000, 135e6, 7e9)]
    ['0', '0.25', '20', '30,000', '150k', '135M', '7B']
    """
    for least, size, letter in ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e5, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def hits_words(in_gain_units: bool) -> str:
    """What is compared with the magnitude."""
    return "|X / gain|" if in_gain_units else "|X|"


def file_part(label: str) -> str:
    """A store's label as a part of a file's name: ASCII letters, digits, points and hyphens, 60 at most.

    >>> file_part("Qwen/Qwen3 (a.zarr)"), file_part("$_\\u05d0")
    ('Qwen-Qwen3-a.zarr', 'store')
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", label)[:60].strip("-.") or "store"
