"""How both commands end: an exit status, and for a user's mistake one message instead of a traceback."""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from schemas.errors import InputError, OutlierFeaturesError
from schemas.remote_errors import redact

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["run_command", "start_command"]


_LONGEST_WORD = 400
"""Characters of a word that are shown whole: paths are rarely as long."""


class _ReaderLeftError(BrokenPipeError):
    """Nobody reads stdout any more; of a pipe or a connection that breaks elsewhere Python's own error tells."""


class _Stream(io.FileIO):
    """stdout or stderr of the process, whose writes that fail by the error ``dropped`` are as good as done.

    So are all after one that was raised: it has been told, and what is still buffered would be written at exit.
    """

    def __init__(self, descriptor: int, dropped: type[OSError] | None) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._dropped: type[OSError] | tuple[()] = dropped or ()

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except self._dropped:
            return memoryview(data).nbytes
        except OSError as error:
            self._dropped = OSError
            if isinstance(error, BrokenPipeError):
                raise _ReaderLeftError(*error.args) from None
            raise


def start_command(name: str) -> int:
    """What ``main()`` of the command ``name`` returns; 130 where it is interrupted while it is still being imported."""
    try:
        status: int = importlib.import_module(f"{name}.cli").main()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return status


def run_command(
    name: str,
    run: Callable[[], int],
    arguments: Sequence[str] = (),
    *,
    interrupted: str = "interrupted",
    needs_reader: bool = True,
) -> int:
    """What ``run()`` returns, or the status of what it raised, said on stderr as coming from the command ``name``.

    An OutlierFeaturesError gives its own status, a name too long for a file 2, any other OSError 1, an interrupt 130
    with the words ``interrupted``. A reader of stdout that has left is no error: it ends ``run`` with 0, or, where that
    does not need one, what is printed is dropped, as it is of stderr always. Other exceptions are faults of ours and
    pass. ``arguments`` are those that ``run`` goes by: none may hold a NUL, which no file's name and no URL can.
    """
    _make_printable(needs_reader)
    try:
        for argument in arguments:
            if "\0" in argument:
                raise InputError(f"{argument!r} holds a NUL character, which no name and no path can: leave it out")
        status = run()
        sys.stdout.flush()  # a full or closed output shows here, not at exit
        return status
    except OutlierFeaturesError as error:
        return _told(name, str(error), error.exit_status)
    except _ReaderLeftError:
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _told(name, f"{error.filename}: {error.strerror}: give a shorter path", InputError.exit_status)
        return _told(name, str(error), 1)
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return 130


def _make_printable(needs_reader: bool) -> None:
    """No name makes printing fail: what stdout and stderr cannot encode is escaped, and one that is closed drops it.

    Nor does stderr that nobody reads or that has no room, and stdout only where the command ``needs_reader``.
    """
    for stream, dropped in (("stdout", None if needs_reader else BrokenPipeError), ("stderr", OSError)):
        held = getattr(sys, stream)
        if held is None:
            setattr(sys, stream, open(os.devnull, "w", errors="backslashreplace"))  # noqa: SIM115  # for the whole process
        elif held is getattr(sys, f"__{stream}__"):
            held.flush()
            setattr(
                sys,
                stream,
                io.TextIOWrapper(
                    io.BufferedWriter(_Stream(held.fileno(), dropped)),
                    held.encoding,
                    "backslashreplace",
                    line_buffering=held.line_buffering or held.write_through,
                ),
            )
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
