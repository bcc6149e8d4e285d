"""The stores that a command line names, patterns expanded where the shell has not done it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from analyze.opened import require_distinct
from schemas.errors import InputError, StoreError
from schemas.run import local_path

__all__ = ["expanded"]


def expanded(paths: Iterable[str]) -> list[str]:
    """The paths in their order, each pattern (``runs/*.zarr``) replaced by what it matches, by name.

    A path that exists is itself, whatever characters it has, and so is a URL without a pattern; in a bucket a pattern
    stands for one or more names between slashes. Raises StoreError for a pattern that matches nothing, InputError for
    one of a web server, which gives no list, for a name that is none, and for a store that is named twice.
    """
    found: list[str] = []
    for path in map(local_path, paths):
        if not path:
            raise InputError("--store '' names no store: give a path, for example --store runs/qwen3.zarr")
        if not glob.has_magic(path) or ("://" not in path and os.path.exists(path)):
            found.append(path)
            continue
        if "://" in path:
            from schemas.remote import matching_urls

            matches = matching_urls(path)
        else:
            matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise StoreError(f"no store matches {path!r}. Make one with: capture --model NAME --store PATH")
        found += matches
    require_distinct(found)
    return found
