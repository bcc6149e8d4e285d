"""A power failure at a chosen flush: what had not been flushed until then is gone, at its worst.

A file has the bytes that it had when it was last flushed, and none where it never was. Folders name what they named
when they were last flushed, so a file that took another's place since has not; or what they name now, as a disk may
know names before it knows the bytes.
"""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

__all__ = ["STATUS", "Power", "fail_at"]

STATUS = 77
"""Exit status of the process whose power failed."""


def fail_at(flush: int, folder: Path, after: Path, *, names_kept: bool) -> Power:
    """From now on count flushes; in place of number ``flush`` write what is left of ``folder`` to ``after`` and end."""
    return Power(flush, folder, after, names_kept=names_kept)


class Power:
    """What this process has flushed in ``folder``, until it fails at number ``last``; ``flushes`` are counted."""

    def __init__(self, last: int, folder: Path, after: Path, *, names_kept: bool) -> None:
        """Begin: what is there is on the disk."""
        self._names_kept = names_kept
        self.flushes, self._last, self._folder, self._after = 0, last, folder, after
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._lock = threading.Lock()
        self._held: list[int] = []
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for root, _, files in os.walk(folder):
            self._flush_folder(Path(root))
            for file in files:
                path = Path(root, file)
                self._hold(os.open(path, os.O_RDONLY))
                self._contents[path.stat().st_ino] = path.read_bytes()
        os.fsync = self._flush  # type: ignore[assignment]

    def _flush(self, descriptor: int) -> None:
        with self._lock:
            self._count(descriptor)

    def _count(self, descriptor: int) -> None:
        self.flushes += 1
        if self.flushes == self._last:
            if self._names_kept:
                for root, *_ in os.walk(self._folder):
                    self._flush_folder(Path(root))
            self._leave(os.stat(self._folder).st_ino, self._after)
            os._exit(STATUS)
        path = Path(f"/proc/self/fd/{descriptor}")
        if path.is_dir():
            self._flush_folder(path)
        else:
            self._hold(os.dup(descriptor))
            self._contents[os.fstat(descriptor).st_ino] = path.read_bytes()

    def _hold(self, descriptor: int) -> None:
        """No other file gets the number of one that is open."""
        self._held.append(descriptor)

    def _flush_folder(self, path: Path) -> None:
        self._names[path.stat().st_ino] = {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(path)}

    def _leave(self, folder: int, path: Path) -> None:
        path.mkdir(exist_ok=True)
        for name, (number, is_folder) in self._names.get(folder, {}).items():
            if is_folder:
                self._leave(number, path / name)
            else:
                (path / name).write_bytes(self._contents.get(number, b""))
