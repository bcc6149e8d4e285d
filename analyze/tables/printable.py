"""Text of a store as it can stand beside other text."""

from __future__ import annotations

import re

__all__ = ["printable"]

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


def printable(text: str) -> str:
    """The text with its code points written out where they are controls or turn the direction of what follows.

    >>> printable("a\\u202eb"), printable("two\\nlines")
    ('a<U+202E>b', 'two<U+000A>lines')
    """
    return _UNPRINTABLE.sub(lambda found: f"<U+{ord(found.group()):04X}>", text)
