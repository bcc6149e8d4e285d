"""How both commands end: an exit status, and for a user's mistake one message instead of a traceback."""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence

from schemas.errors import InputError, OutlierFeaturesError
from schemas.remote_errors import redact

__all__ = ["run_command", "start_command"]


_LONGEST_WORD = 400
"""Characters of a word that are shown whole: paths are rarely as long."""


def start_command(name: str) -> int:
    """What ``main()`` of the command ``name`` returns; 130 where it is interrupted while it is still being imported."""
    try:
        status: int = importlib.import_module(f"{name}.cli").main()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return status


def run_command(
    name: str, run: Callable[[], int], arguments: Sequence[str] = (), *, interrupted: str = "interrupted"
) -> int:
    """What ``run()`` returns, or the status of what it raised, said on stderr as coming from the command ``name``.

    An OutlierFeaturesError gives its own status, a name too long for a file 2, any other OSError 1, an interrupt 130
    with the words ``interrupted``. A reader of stdout that has left is no error: 0. Other exceptions are faults of ours
    and pass. ``arguments`` are those that ``run`` goes by: none may hold a NUL, which no file's name and no URL can.
    """
    _make_printable()
    try:
        for argument in arguments:
            if "\0" in argument:
                raise InputError(f"{argument!r} holds a NUL character, which no name and no path can: leave it out")
        status = run()
        sys.stdout.flush()  # a full or closed output shows here, not at exit
        return status
    except OutlierFeaturesError as error:
        return _told(name, str(error), error.exit_status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _told(name, f"{error.filename}: {error.strerror}: give a shorter path", InputError.exit_status)
        return _told(name, str(error), 1)
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return 130


def _make_printable() -> None:
    """No name makes printing fail: what stdout and stderr cannot encode is escaped, and one that is closed drops it."""
    for stream in ("stdout", "stderr"):
        held = getattr(sys, stream)
        if held is None:
            setattr(sys, stream, open(os.devnull, "w", errors="backslashreplace"))  # noqa: SIM115  # for the whole process
        elif isinstance(held, io.TextIOWrapper):
            held.reconfigure(errors="backslashreplace")


def _told(name: str, message: str, status: int) -> int:
    """``status``, after ``message`` was printed: no secrets, and of words without an end their two ends."""
    shown = re.sub(
        rf"[^\s:]{{{_LONGEST_WORD + 1},}}",
        lambda word: f"{word[0][:100]}...{word[0][-50:]} ({len(word[0]):,} characters)",
        redact(message),
    )
    print(f"{name}: error: {shown}", file=sys.stderr)
    return status
