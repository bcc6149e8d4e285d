"""Making written files survive a power failure: they and the folders that name them are flushed to the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["flush", "sync"]


def sync(files: Iterable[Path]) -> None:
    """Flush files and the directories that name them. A file that is not there is passed over."""
    directories = set()
    for file in files:
        directories.add(file.parent)
        with contextlib.suppress(FileNotFoundError):
            flush(file)
    for directory in directories:
        flush(directory)


def flush(path: Path) -> None:
    """Return when the file or folder at ``path`` is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
