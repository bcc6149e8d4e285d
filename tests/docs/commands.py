"""The commands that pages show: found in their blocks, and made small enough to be run by a test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["blocks", "commands", "fragments", "made_small", "output_after", "shape"]

STARTS = ("capture ", "analyze ", "make ", "pip ", "source ")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Every line of a block, and every piece of code in a sentence, that is a command: its words.

    Without comments and redirections.
    """
    lines = [line for language, text in blocks(page) if language == "" for line in text.splitlines()]
    lines = [line for line in (*lines, *_inline(page)) if line.startswith(STARTS)]
    found = [shlex.split(line.split(" > ")[0], comments=True) for line in lines]
    return list({tuple(words): words for words in found}.values())


def fragments(page: Path) -> list[list[str]]:
    """Code in sentences that is part of a command: its flags, or variables of make; as words."""
    return [shlex.split(text) for text in _inline(page) if re.match(r"--[a-z]|[A-Z_]+=", text)]


def _inline(page: Path) -> list[str]:
    """Code in sentences, each on one line."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose)]


def made_small(words: list[str]) -> list[str]:
    """A capture of two sequences of 64 tokens, or of the same part of two, in place of what ``words`` ask for."""
    small = list(words)
    for flag, value in (("--sequences", "2"), ("--length", "64")):
        if flag not in small:
            small += [flag, value]
        place = small.index(flag) + 1
        part = re.fullmatch(r"(\d+):(\d+)/(\d+)", small[place])
        if part is not None:
            first, last, of = map(int, part.groups())
            value = f"{first * 2 // of}:{last * 2 // of}/2"
        small[place] = value
    return small


def output_after(page: Path, command: str) -> str:
    """The block that follows the one in which ``command`` is the last line."""
    texts = [text for _, text in blocks(page)]
    return texts[next(i for i, text in enumerate(texts) if text.splitlines()[-1] == command) + 1]


def shape(text: str) -> str:
    """A text on one line, with ``#`` for every number and one blank for rules and blanks."""
    lines = [line for line in text.splitlines() if line != "..."]
    numbers = re.sub(r"[0-9][0-9,.]*(?<=[0-9])", "#", "\n".join(lines))
    return re.sub(r"[\s-]+", " ", numbers)
