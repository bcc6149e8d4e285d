"""Captures in processes of their own, signalled at a chosen moment. Run as a module, it answers requests on stdin.

Each capture is forked from this process, which has imported torch and transformers once and has computed nothing; so
a capture starts in milliseconds. One JSON object a line comes in, one goes out:

    {"arguments": [...], "folder": "...", "signal": 9, "after_new": "run.zarr/ln_attn/c.*", "delay_seconds": 0.01}
    {"status": -9, "seconds": 0.53, "signalled": true, "output": "..."}
    {"run": ["mount", ...]}
    {"status": 0, "output": "..."}

``folder`` becomes the capture's working directory. The signal is sent ``delay_seconds`` after a path that matches
``after_new`` appears or is replaced, or after the start where there is no pattern; never where there is no
signal. ``status`` is the exit status, or minus the signal that ended the process. ``run`` is any other command, for
what this process sees and the one that asks does not. With ``file_bytes`` no file can be written beyond that size. With
``power_fails_at`` the power fails at that flush, and ``after`` is what is left (tests/capture/power_failure.py). A
list of requests is that many captures at the same time, and its answer a list; one that is to be signalled comes first.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.capture.power_failure import fail_at

__all__ = ["Answer", "Captures", "capturing_processes"]

Answer = dict[str, Any]
Seen = set[tuple[str, int, int]]


def main() -> None:
    """Answer requests until stdin ends."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  imported once for all captures
    from transformers.models.olmoe import modeling_olmoe  # noqa: F401
    from transformers.models.qwen3_moe import modeling_qwen3_moe  # noqa: F401

    import capture.session  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        answered = _answers(asked) if isinstance(asked, list) else _answers([asked])[0]
        print(json.dumps(answered), flush=True)


def _answers(requests: list[dict[str, Any]]) -> list[Answer]:
    if "run" in requests[0]:
        ran = subprocess.run(requests[0]["run"], capture_output=True, text=True)
        return [{"status": ran.returncode, "output": ran.stdout + ran.stderr}]
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        captures = []
        for request in requests:
            output = stack.enter_context(tempfile.TemporaryFile("w+"))
            before = _matches(request["folder"], request.get("after_new"))
            child = os.fork()
            if child == 0:
                _capture(request, output)
            captures.append((request, child, before, output))
        return [_answer(*capture, started) for capture in captures]


def _answer(request: dict[str, Any], child: int, before: Seen, output: IO[str], started: float) -> Answer:
    signalled, status = _signal(child, request, request.get("after_new"), before)
    seconds = time.monotonic() - started
    output.seek(0)
    code = os.waitstatus_to_exitcode(status)
    return {"status": code, "seconds": seconds, "signalled": signalled, "output": output.read()}


def _signal(child: int, request: dict[str, Any], pattern: str | None, before: Seen) -> tuple[bool, int]:
    """Send the signal at its moment, then wait: whether it was sent before the end, and the wait status."""
    while pattern is not None and not _matches(request["folder"], pattern) - before:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return False, status
        time.sleep(0.0005)
    if "signal" in request:
        time.sleep(request.get("delay_seconds", 0))
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return False, status
        os.kill(child, request["signal"])
    return "signal" in request, os.waitpid(child, 0)[1]


def _matches(folder: str, pattern: str | None) -> Seen:
    """Paths with inode and time: a file that is replaced is another."""
    found = set()
    for path in [] if pattern is None else glob.glob(pattern, root_dir=folder):
        with contextlib.suppress(FileNotFoundError):
            about = os.stat(os.path.join(folder, path))
            found.add((path, about.st_ino, about.st_mtime_ns))
    return found


def _capture(request: dict[str, Any], output: IO[str]) -> NoReturn:
    from capture.cli import main as capture

    status = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os.chdir(request["folder"])
        if "file_bytes" in request:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
        if "power_fails_at" in request:
            folder, after = Path(request["folder"]), Path(request["after"])
            power = fail_at(request["power_fails_at"], folder, after, names_kept=request["names_kept"])
        status = capture(request["arguments"])
        if "power_fails_at" in request:
            Path(request["folder"], "flushes").write_text(str(power.flushes))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Captures:
    """Makes requests and returns their answers."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests, self._answers = requests, answers

    def __call__(self, arguments: Sequence[str] = (), folder: Path = Path(), **moment: Any) -> Answer:
        """One capture."""
        answer: Answer = self._ask({"arguments": list(arguments), "folder": str(folder), **moment})
        return answer

    def together(self, commands: list[list[str]], folder: Path, **first: Any) -> list[Answer]:
        """A capture for each of ``commands``, at the same time; ``first``: the moment that the first is signalled."""
        moments = [first] + [{}] * (len(commands) - 1)
        answers: list[Answer] = self._ask(
            [
                {"arguments": arguments, "folder": str(folder), **moment}
                for arguments, moment in zip(commands, moments, strict=True)
            ]
        )
        return answers

    def _ask(self, asked: Any) -> Any:
        self._requests.write(json.dumps(asked) + "\n")
        self._requests.flush()
        return json.loads(self._answers.readline())


@contextlib.contextmanager
def capturing_processes(environment: Mapping[str, str] = os.environ, wrapper: Sequence[str] = ()) -> Iterator[Captures]:
    """What makes requests of a process that ends with the context.

    It is started by the command ``wrapper``, which must become it.
    """
    root = Path(__file__).resolve().parents[2]
    environment = {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [*wrapper, sys.executable, "-m", "tests.capture.forked_captures"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=root,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Captures(process.stdin, process.stdout)
        process.stdin.close()


if __name__ == "__main__":
    main()
