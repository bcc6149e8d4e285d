"""Results that were measured before, kept beside the store, or in the user's cache where that cannot be written.

A result is found again only for the very same store and code: the name of its file is made of what the statistic's
definition and selection are, of every file of the store, its size, inode and times of change, and of the source that
measures. A chunk that was replaced, a sequence that was added, a run that was captured anew or copied is another store.
Files are written whole or not at all, and one that cannot be read is as good as none.
docs/decisions/051-cached-statistics.md
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analyze.statistics.selection import Chosen
from analyze.statistics.source_digest import source_digest
from analyze.statistics.statistic import Statistic
from schemas.remote import content_digest, is_url
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Cache", "cache_folders", "store_identity"]

Arrays = dict[str, npt.NDArray[Any]]

_FORMAT = 4
_SETTLED_NANOSECONDS = 100_000_000
"""A store that changed less than this ago may change again within the same tick of the clock of its file system."""


class Cache:
    """What is known of one store as it is when this is made."""

    def __init__(self, run: Run, chosen: Chosen, enabled: bool = True) -> None:
        """``enabled``: False finds nothing and keeps nothing; nor does code that is not what its files say."""
        self._run = run
        self._chosen = chosen
        self._code = source_digest() if enabled else None
        self._identity = None if self._code is None else store_identity(run.path)

    def find(self, statistic: Statistic) -> xr.Dataset | None:
        """The kept result, or None."""
        definition = _definition(statistic)
        found = None if definition is None else self.find_arrays(definition)
        return None if found is None else _dataset(found)

    def keep(self, statistic: Statistic, result: xr.Dataset) -> None:
        """Keep ``result`` if the store is still what it was, and is not being written right now."""
        definition = _definition(statistic)
        if definition is not None and not result.attrs.get("excluded"):
            with contextlib.suppress(TypeError):  # attributes that JSON has no form for
                self.keep_arrays(definition, _arrays(result))

    def find_arrays(self, definition: Mapping[str, Any]) -> Arrays | None:
        """What was kept under ``definition``, or None; without xarray, which takes a second to import."""
        if self._identity is None:
            return None
        for folder in cache_folders(self._run.path):
            with contextlib.suppress(Exception):  # whatever zipfile and NumPy make of a damaged file
                return _read(folder / self._name(definition), self._key(definition))
        return None

    def keep_arrays(self, definition: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep ``arrays`` under ``definition``, which has a ``name``, as ``keep`` does."""
        if self._identity is None or store_identity(self._run.path) != self._identity:
            return
        for folder in cache_folders(self._run.path):
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                _write(folder / self._name(definition), self._key(definition), arrays)
                self._forget_others(folder)
                return

    def _key(self, definition: Mapping[str, Any]) -> str:
        key = {
            "format": _FORMAT,
            "code": self._code,
            "store": self._identity,
            "run": _digest(self._run.info.model_dump_json()),  # which was read before the identity was taken
            "chosen": asdict(self._chosen),
            "definition": definition,
        }
        return json.dumps(key, sort_keys=True, default=str)

    def _name(self, definition: Mapping[str, Any]) -> str:
        return f"{self._start}-{definition['name']}-{_digest(self._key(definition))[:32]}.npz"

    @property
    def _start(self) -> str:
        """How the names of all results of this store and code start."""
        return _digest(f"{self._code} {self._identity}")[:16]

    def _forget_others(self, folder: Path) -> None:
        """Remove results of what the store or the code was before, and what killed processes left."""
        for file in folder.iterdir():
            abandoned = file.suffix == ".partial" and file.stat().st_mtime < time.time() - 3600
            if abandoned or (file.suffix == ".npz" and not file.name.startswith(self._start)):
                file.unlink(missing_ok=True)


def _definition(statistic: Statistic) -> dict[str, Any] | None:
    """What the statistic is, with the code that defines it where that is not this package; None if that is unknown."""
    code = source_digest(type(statistic))
    return None if code is None else {**statistic.definition, "code": code}


def cache_folders(path: str) -> Iterator[Path]:
    """Where results of the store at ``path`` may be: beside it unless it is remote, then in the user's cache."""
    remote = is_url(path)
    place = path if remote else os.path.abspath(path)
    name = os.path.basename(place)
    if not remote:
        yield Path(place).parent / f".{name}.statistics"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    yield Path(home, "outlier-features", f"{name}-{_digest(place)[:16]}")


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def store_identity(path: str) -> str | None:
    """A digest of all that says that the store's files are the same; None of a local one just changed.

    Of a local one, files behind links too, whatever a link leads to. Of a bucket: sizes and entity tags of its objects,
    from the list of them. Of one that gives no list, None.
    """
    if is_url(path):
        return content_digest(path)
    found, newest = [], 0
    try:
        for place, about in _files(path, "", frozenset()):
            newest = max(newest, about.st_mtime_ns, about.st_ctime_ns)
            found.append((place, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_dev))
    except OSError:  # files that come and go
        return None
    if newest > time.time_ns() - _SETTLED_NANOSECONDS:
        return None
    return _digest(json.dumps(sorted(found)))


def _files(path: str, place: str, within: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    """All files in the folder at ``path``, by where they lie in the store; links are followed, to no folder ``within``.

    Those are the folders that this one lies in: a link to one of them would lead here again.
    """
    about = os.stat(path)
    here = (about.st_dev, about.st_ino)
    if here in within:
        return
    with os.scandir(path) as entries:
        for entry in entries:
            name = f"{place}{entry.name}"
            if entry.is_dir():
                yield from _files(entry.path, f"{name}/", within | {here})
            else:
                yield name, entry.stat()


def _arrays(result: xr.Dataset) -> Arrays:
    """``result`` as arrays, with what is said of them as JSON; raises TypeError where there is no such form."""
    arrays: Arrays = {}
    variables = []
    for name, variable in result.variables.items():
        values = np.asarray(variable.values)
        arrays[f"v{len(arrays)}"] = values.astype(str) if values.dtype.kind in "OT" else values
        variables.append([name, list(variable.dims), variable.attrs, name in result.coords])
    return {**arrays, "about": np.array(json.dumps({"attributes": result.attrs, "variables": variables}))}


def _dataset(arrays: Arrays) -> xr.Dataset:
    import xarray as xr

    about = json.loads(str(arrays["about"]))
    variables: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for i, (name, dims, attributes, is_coordinate) in enumerate(about["variables"]):
        variables[is_coordinate][name] = (dims, arrays[f"v{i}"], attributes)
    return xr.Dataset(variables[False], variables[True], about["attributes"])


def _write(file: Path, key: str, arrays: Arrays) -> None:
    draft = file.with_name(f"{uuid.uuid4().hex}.partial")
    try:
        with open(draft, "wb") as stream:
            np.savez(stream, allow_pickle=False, key=np.array(key), names=np.array(sorted(arrays)), **arrays)
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _read(file: Path, key: str) -> Arrays:
    """The arrays in ``file``; raises where there is none, or they are not those of ``key``, or not all of them."""
    with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as held:
        if str(held["key"]) != key:
            raise KeyError(key)
        return {name: held[name] for name in held["names"].tolist()}
