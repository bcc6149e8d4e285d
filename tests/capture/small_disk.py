"""A disk of a chosen size, that can be made larger: a tmpfs in a mount namespace, which needs no privileges.

Where the system allows neither (some containers), a limit on the size of files stands in for it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.capture.forked_captures import Answer, Captures, capturing_processes

__all__ = ["SmallDisk", "namespace", "pages", "small_disk"]

PAGE_BYTES = 4096
"""Of which a tmpfs gives whole ones."""

MOUNT = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'


def namespace(folder: Path) -> list[str] | None:
    """The words before a command that run it where ``folder`` is a small disk; None where that cannot be had."""
    as_root = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    wrapper = [*as_root, "sh", "-c", MOUNT, str(folder)]
    with contextlib.suppress(OSError):
        if subprocess.run([*wrapper, "true"], capture_output=True).returncode == 0:
            return wrapper
    return None


def pages(files: Iterable[Path]) -> int:
    """Bytes that files take on a tmpfs."""
    return sum(-(-file.stat().st_size // PAGE_BYTES) * PAGE_BYTES for file in files if file.is_file())


@dataclass
class SmallDisk:
    """``folder`` is on it. Captures see it, this process does not: ``copy_out`` brings what is there."""

    folder: Path
    captures: Captures
    mounted: bool
    size: str = "1m"

    def resize(self, size: str) -> None:
        """Have room for ``size``, in bytes, or like 300k and 4m."""
        self.size = size
        if self.mounted:
            answer = self.captures(run=["mount", "-o", f"remount,size={size}", str(self.folder)])
            assert answer["status"] == 0, answer["output"]

    def capture(self, arguments: list[str], **moment: Any) -> Answer:
        """A capture whose working directory is the folder."""
        return self.captures(arguments, self.folder, **moment)

    def copy_out(self, place: Path) -> Path:
        """``place``, now a copy of all that is on the disk."""
        answer = self.captures(run=["cp", "-r", f"{self.folder}/.", str(place)])
        assert answer["status"] == 0, answer["output"]
        return place


@contextlib.contextmanager
def small_disk(folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[SmallDisk]:
    """A disk at ``folder`` for captures in processes of their own."""
    folder.mkdir()
    wrapper = namespace(folder)
    with capturing_processes(environment, wrapper or []) as captures:
        yield SmallDisk(folder, captures, wrapper is not None)
