"""Where the command may write a page or figures: on this machine, and in no store."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.errors import InputError
from schemas.run import is_url

__all__ = ["require_no_store"]


def require_no_store(path: str | os.PathLike[str], flag: str) -> None:
    """Raise InputError where ``path`` is a URL, or in the folder of a store, whose files are all of it."""
    if is_url(path):
        raise InputError(f"{flag} {os.fspath(path)} is no place on this machine: write it here, and copy it there")
    place = Path(path).absolute()
    for folder in (place, *place.parents):
        if os.path.isfile(folder / "zarr.json"):  # Path.is_file raises for a name too long
            raise InputError(f"{flag} {os.fspath(path)} is in the store {folder}: name a place outside it")
