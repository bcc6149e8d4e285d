"""An array's chunks written as files: byte for byte what zarr-python writes, at a fraction of its cost.

A chunk that is written whole needs none of zarr-python's event loop, which takes more of a processor than compression
does; docs/decisions/041 has the measurement.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.codecs.bytes import Endian

from schemas.chunk_reading import read_whole_chunks
from schemas.durable import FLUSHED_AT_ONCE, flush_files, start_writing_back
from schemas.grid import Index, bounds, covers_chunks, pieces

__all__ = ["ChunkFiles", "chunk_file"]

Region = tuple[slice, ...]
"""The part of an array that a chunk holds."""

WRITTEN_BACK_BYTES = 256 * 1024
"""Files of at least this size are sent on their way to the disk at once. Smaller ones, of which there are more, wait
for the flush: each would be a transfer of its own."""


def chunk_file(folder: str, array: zarr.Array[Any], coordinates: tuple[int, ...]) -> Path:
    """The file of the chunk at ``coordinates`` of the grid of an ``array`` that lies in the local ``folder``."""
    return Path(folder, array.metadata.encode_chunk_key(coordinates))


class ChunkFiles:
    """Writes chunks of one local array whole, each under a temporary name that then becomes the chunk's."""

    def __init__(self, folder: str, array: zarr.Array[Any], compressor: Blosc) -> None:
        """Of the ``array`` that lies in ``folder``; ``of`` tells for which arrays this can be."""
        self._folder = folder
        self._array = array
        self._chunks = array.chunks
        self._stored = array.dtype.newbyteorder("<")
        self._compressor = compressor

    @classmethod
    def of(cls, folder: str, array: zarr.Array[Any]) -> ChunkFiles | None:
        """None where ``array`` has other codecs than little-endian bytes, Blosc, crc32c: zarr-python writes those."""
        match tuple(array.metadata.codecs):  # type: ignore[union-attr]
            case (BytesCodec() as order, BloscCodec() as blosc, Crc32cCodec()) if order.endian != Endian.big:
                return cls(folder, array, _compressor(blosc))
        return None

    def write(self, index: Index, values: npt.NDArray[Any]) -> Iterator[Path]:
        """Set ``array[index]``, of which each chunk is covered whole, to ``values``; the files, each when written.

        Where a chunk is there already, as it is when what a crash took is done again, its bytes are on the disk itself
        before they take its name: a power failure leaves it as it was or as it is.
        """
        for file, contents in self._encoded(index, values):
            temporary = _put_beside(file, contents, write_back=True)
            with _deleting([temporary]):
                if file.exists():
                    flush_files([temporary])
                os.replace(temporary, file)
            yield file

    def replace(
        self, parts: Iterable[tuple[Index, npt.NDArray[Any]]], unreadable: Callable[[Region], None]
    ) -> list[Path]:
        """Set ``array[index]``, whatever part of a chunk it covers, to ``values`` for each of ``parts``; the files.

        They take the chunks' names when their bytes are on the disk itself, so that after a power failure a chunk
        is as it was before or as it is now. No two parts may touch one chunk (ValueError), and nobody else may write
        these meanwhile: what is around is read first. Where that cannot be read, ``unreadable`` is called with its
        region and raises; or else it counts as fill.
        """
        chunks = (
            chunk
            for index, values in parts
            for chunk in self._encoded(
                *(index, values) if covers_chunks(self._array, index) else self._around(index, values, unreadable)
            )
        )
        files: list[Path] = []
        while some := list(itertools.islice(chunks, FLUSHED_AT_ONCE)):  # no more: the disk holds both meanwhile
            staged: dict[Path, Path] = {}
            with _deleting(staged):
                for file, contents in some:
                    if file in staged.values():
                        raise ValueError(f"two parts touch the chunk {file}")
                    staged[_put_beside(file, contents)] = file
                flush_files(list(staged))
                for temporary, file in staged.items():
                    os.replace(temporary, file)
            files += staged.values()
        return files

    def _encoded(self, index: Index, values: npt.NDArray[Any]) -> Iterator[tuple[Path, tuple[bytes, bytes]]]:
        """(file, contents) of each chunk of ``array[index]``, which covers them whole."""
        values = values.astype(self._stored, copy=False)
        for coordinates, place in pieces(self._array, index):
            body = self._compressor.encode(self._whole(coordinates, values[place]))
            checksum = google_crc32c.value(body).to_bytes(4, "little")
            yield chunk_file(self._folder, self._array, coordinates), (body, checksum)

    def _around(
        self, index: Index, values: npt.NDArray[Any], unreadable: Callable[[Region], None]
    ) -> tuple[Index, npt.NDArray[Any]]:
        """The chunks that ``index`` touches, and what they hold once ``array[index]`` is ``values``."""
        region = tuple(
            slice(start // chunk * chunk, min(-(-stop // chunk) * chunk, size))
            for (start, stop), chunk, size in zip(
                bounds(self._array, index), self._chunks, self._array.shape, strict=True
            )
        )
        whole = read_whole_chunks(self._folder, self._array, region)
        if whole is None:
            try:
                whole = np.asarray(self._array[region])
            except (ValueError, RuntimeError):  # zarr-python's, of a chunk that a power failure has torn
                unreadable(region)
                shape = [part.stop - part.start for part in region]
                whole = np.full(shape, self._array.fill_value, self._array.dtype)
        inside = tuple(
            slice(start - part.start, stop - part.start)
            for (start, stop), part in zip(bounds(self._array, index), region, strict=True)
        )
        whole[inside] = values.reshape(whole[inside].shape)
        return region, whole

    def _whole(self, coordinates: tuple[int, ...], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """``values`` as the whole chunk, fill where it reaches beyond the array's end."""
        shape = tuple(
            min(chunk, size - c * chunk)
            for c, chunk, size in zip(coordinates, self._chunks, self._array.shape, strict=True)
        )
        values = values.reshape(shape)
        if shape != self._chunks:
            chunk = np.full(self._chunks, self._array.fill_value, self._stored)
            chunk[tuple(slice(size) for size in shape)] = values
            values = chunk
        return np.ascontiguousarray(values)


def _compressor(blosc: BloscCodec) -> Blosc:
    shuffle = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
    return Blosc(blosc.cname.value, blosc.clevel, shuffle[blosc.shuffle.value], blosc.blocksize, blosc.typesize)


def _put_beside(file: Path, contents: tuple[bytes, ...], *, write_back: bool = False) -> Path:
    """Write ``contents`` under a name beside that of ``file``, which is returned."""
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    with _deleting([temporary]), open(temporary, "wb") as stream:
        for part in contents:
            stream.write(part)
        stream.flush()
        if write_back and sum(map(len, contents)) >= WRITTEN_BACK_BYTES:
            start_writing_back(stream.fileno())
    return temporary


@contextlib.contextmanager
def _deleting(files: Iterable[Path]) -> Iterator[None]:
    """Where what is done within fails, those of ``files`` that are there are deleted."""
    try:
        yield
    except BaseException:
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink()
        raise
