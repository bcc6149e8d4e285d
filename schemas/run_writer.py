"""Writing a run store: chunks from any thread, and commits that vouch for what is on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from schemas.chunk_files import ChunkFiles
from schemas.durable import sync
from schemas.grid import Index, chunks_of, covers_chunks, slices
from schemas.run import Run

try:
    import fcntl
except ImportError:  # no such locks outside POSIX: nothing is swept there
    fcntl = None  # type: ignore[assignment]

__all__ = ["RunWriter", "is_being_written"]


class RunWriter(Run):
    """A local store opened for writing. Arrays are written from any thread; cells are then committed.

    Several writers, in one process or many, may fill disjoint sequences of one store: no chunk spans two. Those that
    fill the same ones with the same values do double work and no harm.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the store at ``path`` for writing; raises StoreError where it is none."""
        super().__init__(path, "r+")
        self._unsynced: set[Path] = set()
        self._renamed: set[Path] = set()
        self._lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._files: dict[str, ChunkFiles | None] = {}
        self._folder = self._opened()
        self.sweep()

    def array(self, name: str) -> zarr.Array[Any]:
        """The array ``name``, set to store chunks that equal the fill value too; StoreError where there is none."""
        if name not in self._arrays:
            self._arrays[name] = super().array(name).with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def write(self, name: str, index: Index, values: npt.NDArray[Any]) -> None:
        """Set ``array(name)[index]``; each chunk goes to a temporary file that then takes the chunk's name.

        Threads may write any selections at once: where one covers a chunk in part, the chunk is read and written
        back, so those writes to an array take turns. Raises ValueError where ``values`` has another shape than the
        selection, or is not of the stored dtype of a site or peak.
        """
        self.write_parts(name, [(index, values)])

    def write_parts(self, name: str, parts: Iterable[tuple[Index, npt.NDArray[Any]]]) -> None:
        """``write`` each (index, values) of ``parts``, no two of which may touch one chunk: quicker in one turn."""
        within = []
        for index, values in parts:
            values = self._fitting(name, index, values)
            if covers_chunks(self.array(name), index):
                self._write_whole(name, index, values)
            else:
                within.append((index, values))
        if within:
            self._replace(name, within)

    def _fitting(self, name: str, index: Index, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array = self.array(name)
        values = np.asarray(values)
        expected = tuple(len(range(*picked.indices(size))) for picked, size in slices(array, index))
        if values.shape != expected:  # zarr-python would cut the values to fit, without a word
            raise ValueError(f"{name}{list(index)} takes an array of shape {expected}, not {values.shape}")
        if "bits" in array.attrs and values.dtype != array.dtype:
            raise ValueError(f"{name} takes bit patterns in {array.dtype}, not {values.dtype}")
        return values

    def _write_whole(self, name: str, index: Index, values: npt.NDArray[Any]) -> None:
        files = self._files_of(name)
        if files is None:
            self._write_through_zarr(name, index, values)
        else:
            self._written(files.write(index, values))

    def _replace(self, name: str, parts: Sequence[tuple[Index, npt.NDArray[Any]]]) -> None:
        """Set parts of chunks, the rest of which may have been committed: a power failure must not take that."""
        with self._lock:
            turn = self._turns.setdefault(name, threading.Lock())
        with turn, self._alone(name):
            self._replace_alone(name, parts)

    def _replace_alone(self, name: str, parts: Sequence[tuple[Index, npt.NDArray[Any]]]) -> None:
        files = self._files_of(name)
        if files is not None:
            renamed = files.replace(parts, lambda region: self._require_none_committed(name, region))
            with self._lock:
                self._renamed.update(renamed)
            return
        for index, values in parts:
            self._write_through_zarr(name, index, values)

    def _require_none_committed(self, name: str, region: tuple[slice, ...]) -> None:
        """Raise CorruptChunkError where a committed cell is in ``region``, which cannot be read, of the array."""
        dims = self.array(name).metadata.dimension_names or ()  # type: ignore[union-attr]
        cells = tuple(region[dims.index(axis)] if axis in dims else slice(None) for axis in ("layer", "sequence"))
        if self.committed()[cells].any():
            self.read(name, region)

    def _write_through_zarr(self, name: str, index: Index, values: npt.NDArray[Any]) -> None:
        """What has codecs that this project does not choose."""
        self.array(name)[index] = values
        self._written(self._chunk_files(name, index))

    def _written(self, files: Iterable[Path]) -> None:
        """Have ``files`` flushed before the next commit."""
        written = set(files)
        with self._lock:
            self._unsynced |= written

    def _files_of(self, name: str) -> ChunkFiles | None:
        if name not in self._files:
            self._files[name] = ChunkFiles.of(os.path.join(self.path, name), self.array(name))
        return self._files[name]

    def _chunk_files(self, name: str, index: Index) -> Iterator[Path]:
        array = self.array(name)
        return (self._chunk_file(array, name, coordinates) for coordinates in chunks_of(array, index))

    def commit(self, layers: Sequence[int], sequences: Iterable[int]) -> None:
        """Mark cells complete, after everything written so far has reached the disk itself.

        Commits take turns: each rewrites whole columns of the log, and none may pass another that is still
        flushing data it vouches for.
        """
        sequences = list(sequences)
        with self._commit_lock:
            self._flush()
            self._mark(layers, sequences)
            self._flush()

    def _mark(self, layers: Sequence[int], sequences: Sequence[int]) -> None:
        with self._alone("committed"):
            columns = []
            for sequence in sequences:
                column = self.read("committed", (slice(None), sequence))
                column[list(layers)] = 1
                columns.append(((slice(None), sequence), column))
            self._replace_alone("committed", columns)

    def flush(self) -> None:
        """Return when everything written so far has reached the disk itself."""
        with self._commit_lock:
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            files, self._unsynced = self._unsynced, set()
            renamed, self._renamed = self._renamed, set()
        try:
            sync(files, renamed)
        except BaseException:
            with self._lock:
                self._unsynced |= files
                self._renamed |= renamed
            raise

    def sweep(self) -> None:
        """Delete what killed writers left half-written, unless another writer has the store open.

        Every writer holds a shared lock on the folder while it lives; who gets it exclusively is alone.
        """
        if fcntl is None:
            return
        with contextlib.suppress(OSError):  # another writer is at work, or the file system has no locks
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in Path(self.path).glob("*/*.partial"):
                leftover.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # waits for one that is sweeping, so that it does not sweep what is new
            fcntl.flock(self._folder, fcntl.LOCK_SH)

    def _opened(self) -> int:
        """A descriptor of the store's folder that lives as long as the writer."""
        folder = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, folder)
        return folder

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """While entered, no other process rewrites a part of a chunk of the array ``name``.

        Chunks do not span sequences, so this matters where two processes fill the same ones: of two that read a
        chunk, each to change a part of it, the first to write it back would lose its change.
        """
        if fcntl is None:
            yield
            return
        folder = os.open(os.path.join(self.path, name), os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # the file system has no locks
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def is_being_written(path: str | os.PathLike[str]) -> bool:
    """True where a live RunWriter, of this process or another, has the store at a local ``path`` open."""
    if fcntl is None:
        return False
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)  # else the file system has no locks
    finally:
        os.close(folder)
    return False
