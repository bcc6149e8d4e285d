"""The capture command in a process with an environment of its own, kept running: importing torch is paid once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["CaptureProcess", "Ran"]

LOOP = """
import contextlib, io, json, os, sys, time, traceback, warnings
import capture.hub
from capture.cli import main

warnings.simplefilter("error")
patience = capture.hub.ANSWER_SECONDS
for line in sys.stdin:
    asked = json.loads(line)
    os.environ.update(asked["environment"])
    capture.hub.ANSWER_SECONDS = asked["answer_seconds"] or patience
    out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(asked["arguments"])
        except BaseException:
            traceback.print_exc()
            status = -1
    ran = [status, out.getvalue(), err.getvalue(), time.monotonic() - began]
    print(json.dumps(ran), file=sys.__stdout__, flush=True)
"""


@dataclass(frozen=True)
class Ran:
    """What a command did: its exit status (-1: it raised), what it printed, and for how long it ran."""

    status: int
    out: str
    err: str
    seconds: float


class CaptureProcess:
    """Runs commands one after another, in one process whose environment is ``environment``."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Nothing runs until the context is entered."""
        self._environment = dict(environment)

    def __enter__(self) -> CaptureProcess:
        """The process, started."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOOP],
            env=self._environment,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def run(self, *arguments: Any, answer_seconds: float | None = None, **environment: str) -> Ran:
        """Run ``capture`` with ``arguments``; ``environment`` is set from here on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words = [str(argument) for argument in arguments]
        asked = {"arguments": words, "environment": environment, "answer_seconds": answer_seconds}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Ran(*json.loads(self._process.stdout.readline()))
