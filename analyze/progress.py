"""Progress through sequences, on stderr: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from analyze.quantities import counted

__all__ = ["Progress", "shown_progress", "silent_progress"]

Progress = Callable[[Iterable[int], str, str], Iterable[int]]
"""Passes sequences through while showing how far along they are; the texts say what they are read for, and the plan."""

_SECONDS_BETWEEN_LINES = 15.0


def silent_progress(sequences: Iterable[int], _: str, __: str = "") -> Iterable[int]:
    """The sequences as they are."""
    return sequences


def shown_progress(sequences: Iterable[int], label: str, plan: str = "") -> Iterator[int]:
    """The sequences, shown on stderr as they go by; before the first, what the ``plan`` says that they will take."""
    listed = list(sequences)
    if plan:
        print(f"analyze: {label}: {plan}", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(listed, desc=label, unit="sequence", leave=False, file=sys.stderr)
        return
    told = time.monotonic()
    for done, sequence in enumerate(listed):
        if time.monotonic() - told >= _SECONDS_BETWEEN_LINES:
            print(f"analyze: {label}: {done} of {counted(len(listed), 'sequence')}", file=sys.stderr, flush=True)
            told = time.monotonic()
        yield sequence
