"""What a store is: its provenance, how much of it is there, and what its arrays take."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.inventory.answerable import Answerable, answerable
from analyze.opened import opened
from schemas.codecs import codec_name
from schemas.errors import StoreError
from schemas.grid import selection
from schemas.layout import nonfinite_name
from schemas.perplexity import Perplexity, perplexity
from schemas.provenance import RunInfo
from schemas.remote import open_remote
from schemas.run import Run, is_url
from schemas.run_writer import is_being_written

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ArrayInfo", "StoreInfo", "info"]


@dataclass(frozen=True)
class ArrayInfo:
    """One array. ``raw_bytes`` are those of the chunks that are there, decoded; ``stored_bytes`` those of their files.

    ``chunks_there`` and both sizes are None where the store is on a server that lists no files.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    codec: str | None
    chunks: int
    chunks_there: int | None
    raw_bytes: int | None
    stored_bytes: int | None

    @property
    def ratio(self) -> float | None:
        """Bytes stored for each byte decoded; None where nothing is there, or it is not known."""
        return self.stored_bytes / self.raw_bytes if self.stored_bytes is not None and self.raw_bytes else None


@dataclass(frozen=True)
class StoreInfo:
    """A store, finished or not.

    ``complete``: sequences of which every layer is committed, which ``perplexity`` and ``nonfinite`` (NaN and infinite
    values) are of. ``cells`` of ``cells_total`` (layer, sequence) cells are committed. ``being_written``: a capture has
    it open now, so far as this machine can tell. ``finishing_command``: what completes it; None where it is complete.
    ``stored_bytes``: of all files, metadata too; None where they cannot be listed.
    """

    path: str
    run: RunInfo
    complete: tuple[int, ...]
    cells: int
    cells_total: int
    being_written: bool
    finishing_command: str | None
    perplexity: Perplexity
    nonfinite: int
    stored_bytes: int | None
    arrays: tuple[ArrayInfo, ...]
    answers: tuple[Answerable, ...]

    @property
    def raw_bytes(self) -> int | None:
        """Decoded bytes of all chunks that are there."""
        sizes = [array.raw_bytes for array in self.arrays]
        return None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)

    @property
    def ratio(self) -> float | None:
        """Bytes of the store for each byte decoded: what ``capture`` prints as its ratio."""
        return self.stored_bytes / self.raw_bytes if self.stored_bytes is not None and self.raw_bytes else None

    def _repr_html_(self) -> str:
        from analyze.formats.html import render_tables
        from analyze.inventory.tables import info_tables

        return "".join(render_tables(info_tables([self])))


def info(store: str | os.PathLike[str] | xr.Dataset | Run) -> StoreInfo:
    """What the store at a path or URL is and can answer; of its data only the commit log and losses are read.

    Raises StoreError where there is none, CorruptChunkError where what is read of it is damaged.

    >>> found = info("runs/tiny.zarr")
    >>> found.run.model.name, len(found.complete), found.finishing_command
    ('tiny', 3, None)
    >>> next(array.shape for array in found.arrays if array.name == "ln_mlp")
    (2, 3, 8, 4)
    """
    run = opened(store)
    log = run.committed()
    complete = tuple(run.complete_sequences())
    finished = bool(log.all())
    files = _files(run.path)
    folders = None if files is None else _by_folder(files)
    arrays = tuple(_array_info(run, name, folders) for name in _in_order(run))
    losses = run.read("token_nll")[list(complete)] if complete and "token_nll" in run else np.empty((0, 1), np.float32)
    return StoreInfo(
        path=run.path,
        run=run.info,
        complete=complete,
        cells=int(np.count_nonzero(log)),
        cells_total=int(log.size),
        being_written=not is_url(run.path) and _is_open(run.path),
        finishing_command=None if finished else run.finishing_command(),
        perplexity=perplexity(losses),
        nonfinite=_nonfinite(run, complete),
        stored_bytes=None if files is None else sum(files.values()),
        arrays=arrays,
        answers=answerable(run, complete),
    )


def _nonfinite(run: Run, complete: Sequence[int]) -> int:
    names = [name for name in map(nonfinite_name, run.info.stored_sites) if name in run]
    return sum(int(run.read(name)[:, list(complete)].sum()) for name in names)


def _is_open(path: str) -> bool:
    try:
        return is_being_written(path)
    except OSError:  # a folder that may not be opened for a lock says nothing of who writes to it
        return False


def _files(path: str) -> Mapping[str, int] | None:
    """Bytes of each file by its path in the store; None where a server does not list them."""
    if not is_url(path):
        return dict(_local_files(Path(path)))
    if not path.startswith(("s3://", "gs://")):
        return None
    try:
        return {key: size for key, (size, _) in open_remote(path).listed().items()}
    except StoreError:  # it may be read, and not listed
        return None


def _local_files(root: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder, name)
            try:
                yield file.relative_to(root).as_posix(), file.stat().st_size
            except FileNotFoundError:  # a writer's draft that took its name meanwhile
                continue


def _by_folder(files: Mapping[str, int]) -> Mapping[str, list[tuple[str, int]]]:
    """(name, bytes) of the files of each array."""
    found: dict[str, list[tuple[str, int]]] = {}
    for key, size in files.items():
        folder, _, name = key.partition("/")
        found.setdefault(folder, []).append((name, size))
    return found


def _in_order(run: Run) -> list[str]:
    """Names of the arrays: those of the sites first, each after its site, then the rest by name."""
    names = sorted(run.group.array_keys())
    first = [name for site in run.info.stored_sites for name in names if name == site or name.startswith(f"{site}_")]
    return [*first, *(name for name in names if name not in first)]


def _array_info(run: Run, name: str, folders: Mapping[str, list[tuple[str, int]]] | None) -> ArrayInfo:
    array = run.array(name)
    bits = array.attrs.get("bits")
    there = None if folders is None else list(_chunks_there(array, folders.get(name, [])))
    return ArrayInfo(
        name=name,
        dims=tuple(str(dim) for dim in array.metadata.dimension_names or ()),  # type: ignore[union-attr]
        shape=tuple(array.shape),
        dtype=f"{bits} in {array.dtype}" if bits and bits != str(array.dtype) else str(array.dtype),
        chunk=tuple(array.chunks),
        codec=codec_name(array),
        chunks=math.prod(-(-size // step) for size, step in zip(array.shape, array.chunks, strict=True)),
        chunks_there=None if there is None else len(there),
        raw_bytes=None if there is None else sum(raw for raw, _ in there),
        stored_bytes=None if there is None else sum(stored for _, stored in there),
    )


def _chunks_there(array: Any, files: Sequence[tuple[str, int]]) -> Iterator[tuple[int, int]]:
    """(decoded bytes, stored bytes) of each of the array's chunks that has a file."""
    for name, stored in files:
        if re.fullmatch(r"c([./]\d+)+", name) is None:  # its metadata, or a draft
            continue
        coordinates = tuple(int(number) for number in re.findall(r"\d+", name))
        spans = zip(selection(array, coordinates), array.shape, strict=True)
        yield math.prod(len(range(*span.indices(size))) for span, size in spans) * array.dtype.itemsize, stored
