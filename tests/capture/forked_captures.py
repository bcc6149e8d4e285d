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
what this process sees and the one that asks does not. With ``file_bytes`` no file can be written beyond that size.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

__all__ = ["Answer", "Captures", "capturing_processes"]

Answer = dict[str, Any]
Captures = Callable[..., Answer]
Seen = set[tuple[str, int, int]]


def main() -> None:
    """Answer requests until stdin ends."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  imported once for all captures
    from transformers.models.olmoe import modeling_olmoe  # noqa: F401

    import capture.session  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


def _answer(request: dict[str, Any]) -> Answer:
    if "run" in request:
        ran = subprocess.run(request["run"], capture_output=True, text=True)
        return {"status": ran.returncode, "output": ran.stdout + ran.stderr}
    with tempfile.TemporaryFile("w+") as output:
        pattern = request.get("after_new")
        before = _matches(request["folder"], pattern)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _capture(request, output)
        signalled, status = _signal(child, request, pattern, before)
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
        status = capture(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def capturing_processes(environment: Mapping[str, str] = os.environ, wrapper: Sequence[str] = ()) -> Iterator[Captures]:
    """A function that makes a request and returns its answer, from a process that ends with the context.

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
        requests, answers = process.stdin, process.stdout

        def ask(arguments: Sequence[str] = (), folder: Path = root, **moment: Any) -> Answer:
            requests.write(json.dumps({"arguments": arguments, "folder": str(folder), **moment}) + "\n")
            requests.flush()
            answer: Answer = json.loads(answers.readline())
            return answer

        yield ask
        requests.close()


if __name__ == "__main__":
    main()
