"""A run store: open it, and read arrays with corrupt chunks named; ``schemas.run_writer`` writes it.

The commit log is the array ``committed``: a (layer, sequence) cell counts only when it is 1, and it becomes 1 after
the data it vouches for has reached the disk. The last layer of a sequence is committed after its position peaks and
token losses, so a sequence with all layers committed is complete. Writers store every chunk, also one equal to the
fill value, so a chunk that a committed cell lacks is damage, not data.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from schemas.bits import Encoding, encoding_named
from schemas.chunk_files import chunk_file
from schemas.errors import CorruptChunkError, InputError, StoreError
from schemas.event_loop import absent_chunks, finish_tasks
from schemas.grid import Index, chunks_of, pieces, selection
from schemas.layout import Dimensions
from schemas.provenance import RunInfo, parse_attributes
from schemas.remote import RemoteStore, is_url, open_remote
from schemas.retention import Retention, parse_retention

__all__ = ["Run", "is_url", "local_path", "open_group", "store_bytes"]


def local_path(path: str | os.PathLike[str]) -> str:
    """``path`` without a leading ``file://``: such a URL is a local path, and all others are as they were."""
    return re.sub(r"^(file|local)://", "", os.fspath(path))


def open_group(path: str | os.PathLike[str], mode: str = "r") -> zarr.Group:
    """The root group of the store at a local path or a URL; raises StoreError where there is none."""
    where = local_path(path)
    if is_url(where):
        remote = open_remote(where)
        if mode != "r":
            raise InputError(f"{remote.url} is written by capture alone: capture --store {remote.url}")
        if remote.get("zarr.json") is None:
            raise StoreError(
                f"{remote.url} is not a run store: it has no zarr.json. Make it with: "
                f"capture --model NAME --store {remote.url}"
            )
        store: Any = RemoteStore(remote)
    else:
        if not os.path.exists(where):  # Path.exists raises for a name too long
            raise StoreError(f"{where} does not exist. Make it with: capture --model NAME --store {where}")
        if not (Path(where) / "zarr.json").is_file():
            raise StoreError(f"{where} is not a run store: it has no zarr.json. A store is a folder made by capture")
        store = zarr.storage.LocalStore(where, read_only=mode == "r")
    try:
        return zarr.open_group(store, mode=mode, zarr_format=3)  # type: ignore[arg-type]
    except StoreError:
        raise
    except Exception as error:  # zarr-python raises what a malformed zarr.json leads to: AttributeError and others
        raise StoreError(f"{where} is not a readable Zarr v3 group: {error}") from None


class Run:
    """A store opened for reading (or writing, by a RunWriter): its provenance, its arrays, what is committed."""

    def __init__(self, path: str | os.PathLike[str], mode: str = "r") -> None:
        """Open the store at ``path``; raises StoreError where it is none or of a newer major version."""
        self.path = local_path(path)
        if is_url(self.path):
            self.path = self.path.rstrip("/")
        self.group = open_group(path, mode)
        self.info: RunInfo = parse_attributes(dict(self.group.attrs), self.path)
        self.encoding: Encoding = encoding_named(self.info.bits)
        try:
            self.retention: Retention = parse_retention(self.info.retention)
        except InputError:
            raise StoreError(
                f"{self.path} keeps {self.info.retention!r} of its slices, which this outlier-features does not know. "
                "Upgrade it: pip install --upgrade outlier-features"
            ) from None
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._remote_log: npt.NDArray[np.bool_] | None = None

    def __contains__(self, name: str) -> bool:
        """True where the store has the array ``name``."""
        return name in self.group

    def array(self, name: str) -> zarr.Array[Any]:
        """The array ``name``; raises StoreError naming those there are."""
        if name not in self._arrays:
            found = self.group.get(name)
            if not isinstance(found, zarr.Array):
                known = ", ".join(sorted(self.group.array_keys()))
                raise StoreError(f"{self.path} has no array {name!r}; it has: {known}")
            self._arrays[name] = found
        return self._arrays[name]

    @property
    def dimensions(self) -> Dimensions:
        """Layers, sequences, positions and features of the run."""
        return Dimensions(
            self.info.model.layers,
            self.info.corpus.sequences,
            self.info.corpus.length,
            self.info.model.hidden_size,
        )

    def read(self, name: str, index: Index = ()) -> npt.NDArray[Any]:
        """``array(name)[index]`` as stored.

        Raises CorruptChunkError naming the chunk that fails its checksum, or that is missing although its cell (of an
        array without sequences: one of the layer's cells) is committed; StoreError with the cause for one that the
        system does not let be read.
        """
        array = self.array(name)
        try:
            values: npt.NDArray[Any] = np.asarray(array[index or ...])
        except Exception as error:
            finish_tasks()
            if not isinstance(error, StoreError):  # that of a remote store says itself what is wrong
                self._blame(name, index, error)
            raise
        if name != "committed":
            self._require_chunks(name, index, values)
        return values

    def _require_chunks(self, name: str, index: Index, values: npt.NDArray[Any]) -> None:
        """Raise for the first chunk that does not exist in a committed cell: Zarr reads it as fill, without a word.

        The store is asked for those alone of which nothing but fill was read: of a complete run no hidden states and
        no peaks, so that of a remote one, too, little is asked.
        """
        array = self.array(name)
        dims = array.metadata.dimension_names or ()  # type: ignore[union-attr]
        if "layer" not in dims and "sequence" not in dims:
            return
        suspects = [c for c, place in pieces(array, index) if _is_fill(values[place], array.fill_value)]
        missing = absent_chunks(array, suspects)
        log = self.committed() if missing else None
        for coordinates in missing:
            spans = dict(zip(dims, selection(array, coordinates), strict=True))
            cells = log[spans.get("layer", slice(None)), spans.get("sequence", slice(None))]  # type: ignore[index]
            vouched = cells.all() if "sequence" in dims else cells.any()
            # Asked again: another process may have written and committed it between the two looks.
            if vouched and absent_chunks(array, [coordinates]):
                raise self._damaged(name, coordinates, "the file is missing")

    def sequence_bytes(self, sequences: range) -> int:
        """Bytes on disk of the chunks of ``sequences``, which are theirs alone; of a local store."""
        total = 0
        for name in self.group.array_keys():
            array = self.array(name)
            dims = array.metadata.dimension_names or ()  # type: ignore[union-attr]
            if "sequence" in dims:
                theirs = slice(sequences.start, sequences.stop)
                index = tuple(theirs if dim == "sequence" else slice(None) for dim in dims)
                for coordinates in chunks_of(array, index):
                    with contextlib.suppress(FileNotFoundError):  # not written yet
                        total += self._chunk_file(array, name, coordinates).stat().st_size
        return total

    def _chunk_file(self, array: zarr.Array[Any], name: str, coordinates: tuple[int, ...]) -> Path:
        return chunk_file(os.path.join(self.path, name), array, coordinates)

    def _damaged(self, name: str, coordinates: tuple[int, ...], cause: str) -> CorruptChunkError:
        """The error for one chunk: its file, where in the array it lies, and what to do."""
        return CorruptChunkError(
            f"{self._chunk_words(name, coordinates)} is damaged: {cause}. Restore that file from a copy, "
            "or capture the run again with --overwrite"
        )

    def _unreadable(self, name: str, coordinates: tuple[int, ...], cause: OSError) -> StoreError:
        """The same for one that may be whole: what the system says of it."""
        file = cause.filename or self._chunk_file(self.array(name), name, coordinates)
        said = cause.strerror or str(cause) or type(cause).__name__
        return StoreError(
            f"{self._chunk_words(name, coordinates)} cannot be read: {file}: {said}. Nothing says that it is damaged: "
            "mend what keeps it from being read, and run the same command again"
        )

    def _chunk_words(self, name: str, coordinates: tuple[int, ...]) -> str:
        """The store, the chunk and where in the array it lies."""
        array = self.array(name)
        dims = array.metadata.dimension_names or ()  # type: ignore[union-attr]
        place = ", ".join(
            f"{dim} {c}" if size == 1 else f"{dim} {c * size} to {min((c + 1) * size, whole) - 1}"
            for dim, c, size, whole in zip(dims, coordinates, array.chunks, array.shape, strict=True)
            if size < whole or whole == 1
        )
        key = f"{name}/{array.metadata.encode_chunk_key(coordinates)}"
        return f"{self.path}: chunk {key} ({place})"

    def _blame(self, name: str, index: Index, error: Exception) -> None:
        """Read the chunks of a failed selection one by one and raise for the first that cannot be read or decoded."""
        array = self.array(name)
        for coordinates in chunks_of(array, index):
            try:
                array[selection(array, coordinates)]
            except OSError as cause:
                raise self._unreadable(name, coordinates, cause) from error
            except Exception as cause:
                told = "its checksum does not match" if "checksum" in str(cause) else str(cause).rstrip(".")
                raise self._damaged(name, coordinates, told) from error

    def finishing_command(self) -> str:
        """The command that the store records, for the store where it is now, and with its progress shown."""
        words, kept = iter(self.info.command), []
        for word in words:
            if word == "--store":
                next(words, None)
            elif not word.startswith("--store=") and word not in ("-q", "--quiet"):
                kept.append(word)
        return shlex.join([*kept, "--store", self.path])

    def committed(self) -> npt.NDArray[np.bool_]:
        """(layer, sequence) mask of the cells whose data is complete; of a remote store, as of the first look."""
        if self._remote_log is not None:
            return self._remote_log
        log: npt.NDArray[np.bool_] = self.read("committed") == 1
        if is_url(self.path):
            self._remote_log = log
        return log

    def complete_sequences(self) -> list[int]:
        """Sequences of which every layer is committed."""
        return [int(sequence) for sequence in np.flatnonzero(self.committed().all(axis=0))]


def _is_fill(values: npt.NDArray[Any], fill: Any) -> bool:
    """True where ``values`` are all the fill value; the last one nearly always says that they are not."""
    last = values.reshape(-1)[-1]
    if fill != fill:  # NaN
        return bool(np.isnan(last) and np.isnan(values).all())
    return bool(last == fill and (values == fill).all())


def store_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of all files of a local store; what vanishes meanwhile, as a worker's drafts do, does not count."""
    total = 0
    for folder, _, names in os.walk(path):  # which passes over a folder that has gone
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total
