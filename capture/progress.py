"""How far a capture is: a bar on a terminal, a line now and then elsewhere, nothing with ``-q``."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

from capture.part import Part

__all__ = ["Progress"]

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts sequences as they are committed; ``advance`` may be called from any thread."""

    def __init__(self, part: Part, done: int, *, quiet: bool) -> None:
        """``done`` of the part's sequences were committed before this run."""
        self._total = total = len(part.sequences)
        self._what = "sequences" if part.is_whole else f"sequences, {part},"
        self._done = done
        self._lock = threading.Lock()
        self._last_line = self._started = time.monotonic()
        self._before = done
        self._quiet = quiet
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            title = "capture" if part.is_whole else f"capture {part}"
            self._bar = tqdm(
                total=total,
                initial=done,
                unit="sequence",
                desc=title,
                dynamic_ncols=True,
            )

    def __enter__(self) -> Progress:
        """The progress itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, sequences: int) -> None:
        """``sequences`` more are committed."""
        with self._lock:
            self._done += sequences
            if self._bar is not None:
                self._bar.update(sequences)
                return
            now = time.monotonic()
            if self._quiet or (now - self._last_line < SECONDS_BETWEEN_LINES and self._done < self._total):
                return
            self._last_line = now
            rate = (self._done - self._before) / max(now - self._started, 1e-9)
            left = f", about {(self._total - self._done) / rate:.0f} s left" if self._done < self._total else ""
            print(f"capture: {self._done} of {self._total} {self._what} committed{left}", file=sys.stderr, flush=True)
