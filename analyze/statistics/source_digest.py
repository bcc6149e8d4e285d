"""A digest of the code that numbers come from: what another code kept is not found again.

It is of every source file of these packages but those that only show numbers, so that nothing has to be listed and a
kernel that a statistic imports when it runs is among them.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

__all__ = ["source_digest"]

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("analyze", "schemas")
_SHOWN = frozenset({"figures", "flags", "formats", "report", "tables"})
"""Folders whose code only shows what was found."""
_IMPORTED = time.time_ns()


def source_digest(kind: type | None = None) -> str | None:
    """A digest of this code, and of the modules elsewhere that define ``kind`` and what it inherits.

    None where that is not known: code without a file, or a file that was changed after this process read it, as it is
    in a notebook beside an editor. NumPy's version is part of it, whose random numbers are.
    """
    own = _own_digest()
    if own is None or kind is None:
        return own
    digest = hashlib.sha256(own.encode())
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package in _PACKAGES or package in sys.stdlib_module_names:
            continue
        read = _read(getattr(sys.modules.get(base.__module__), "__file__", None))
        if read is None:
            return None
        digest.update(read)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _own_digest() -> str | None:
    """Once a process: 137 files take 6 ms."""
    digest, files = hashlib.sha256(np.__version__.encode()), 0
    for file in _sources():
        read = _read(file)
        if read is None:
            return None
        digest.update(f"\0{os.path.relpath(file, _ROOT)}\0".encode() + read)
        files += 1
    return digest.hexdigest() if files else None


def _sources() -> Iterator[str]:
    for package in _PACKAGES:
        for folder, folders, names in os.walk(_ROOT / package):
            folders[:] = sorted({*folders} - _SHOWN - {"__pycache__"})
            yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".py"))


def _read(file: str | None) -> bytes | None:
    """The bytes of a source file; None where there is none, or it is newer than what this process imported."""
    try:
        if file is None or os.stat(file).st_mtime_ns > _IMPORTED:
            return None
        return Path(file).read_bytes()
    except OSError:
        return None
