"""How both commands end: an exit status, and for a user's mistake one message instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from schemas.errors import OutlierFeaturesError
from schemas.remote_errors import redact

__all__ = ["run_command"]


def run_command(name: str, run: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """What ``run()`` returns, or the status of what it raised, said on stderr as coming from the command ``name``.

    An OutlierFeaturesError gives its own status, any OSError 1, an interrupt 130 with the words ``interrupted``. A
    reader of stdout that has left is no error: 0. Other exceptions are faults of ours and pass.
    """
    try:
        status = run()
        sys.stdout.flush()  # a full or closed output shows here, not at exit
        return status
    except OutlierFeaturesError as error:
        print(f"{name}: error: {redact(str(error))}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"{name}: error: {redact(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return 130
