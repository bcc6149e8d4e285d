"""The stores that a command line names, patterns expanded where the shell has not done it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from schemas.errors import StoreError

__all__ = ["expanded"]


def expanded(paths: Iterable[str]) -> list[str]:
    """The paths in their order, each pattern (``runs/*.zarr``) replaced by what it matches, by name.

    A path that exists is itself, whatever characters it has, and so is a URL. Raises StoreError for a pattern that
    matches nothing.
    """
    found: list[str] = []
    for path in paths:
        if "://" in path or not glob.has_magic(path) or os.path.exists(path):
            found.append(path)
            continue
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise StoreError(f"no store matches {path!r}. Make one with: capture --model NAME --store PATH")
        found += matches
    return found
