"""An array's chunks read from their files into memory that is used again: zarr-python's bits, at twice its speed.

Only what this project writes is read here: local files of little-endian bytes, Blosc, crc32c. Anything else, and
anything that goes wrong, is left to zarr-python: see ``ChunkReader.read``.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.codecs.bytes import Endian

from schemas.grid import Index, bounds, covers_chunks, pieces, slices

__all__ = ["ChunkReader", "UnreadableChunkError", "read_whole_chunks"]

_CHECKSUM_BYTES = 4
_PAGE_BYTES = 4096
_DECODED_BYTES = slice(4, 8)
"""Where Blosc's header says how many bytes come out."""


_own = threading.local()


class UnreadableChunkError(Exception):
    """A chunk that is not there, or is not what it should be: zarr-python's own read says what is wrong."""


class ChunkReader:
    """Reads whole chunks of one array that lies in a local folder; may be used from several threads."""

    def __init__(self, folder: str, array: zarr.Array[Any]) -> None:
        """Of the ``array`` in ``folder``; ``of`` tells for which arrays this can be."""
        self._folder = folder
        self._key = array.metadata.encode_chunk_key
        self.shape = array.chunks
        self.dtype = array.dtype
        self._nbytes = int(np.prod(array.chunks)) * array.dtype.itemsize

    @classmethod
    def of(cls, folder: str, array: zarr.Array[Any]) -> ChunkReader | None:
        """None where ``array`` has other codecs than little-endian bytes, Blosc, crc32c, or this is big-endian."""
        match tuple(array.metadata.codecs):  # type: ignore[union-attr]
            case (BytesCodec() as order, BloscCodec(), Crc32cCodec()) if order.endian != Endian.big:
                return cls(folder, array) if sys.byteorder == "little" and os.path.isdir(folder) else None
        return None

    def frame(self, coordinates: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """What Blosc made of the chunk at ``coordinates`` of the grid, until this thread reads another chunk.

        Raises UnreadableChunkError where the file is missing, its checksum does not hold, or its size is another.
        """
        try:
            contents = _contents(os.path.join(self._folder, self._key(coordinates)))
        except OSError as error:
            raise UnreadableChunkError(str(error)) from None
        body, checksum = contents[:-_CHECKSUM_BYTES], contents[-_CHECKSUM_BYTES:].tobytes()
        if len(checksum) < _CHECKSUM_BYTES or google_crc32c.value(body).to_bytes(4, "little") != checksum:
            raise UnreadableChunkError("its checksum does not match")
        if int.from_bytes(body[_DECODED_BYTES].tobytes(), "little") != self._nbytes:
            raise UnreadableChunkError("it holds another number of bytes")
        return body

    def read(self, coordinates: tuple[int, ...], into: npt.NDArray[Any]) -> None:
        """Decode the chunk at ``coordinates`` of the grid ``into`` contiguous memory of the whole chunk's size.

        Raises UnreadableChunkError as ``frame`` does.
        """
        if into.nbytes != self._nbytes or into.dtype != self.dtype:
            raise ValueError(f"a chunk of {self._nbytes} bytes of {self.dtype} is not read into {into.nbytes}")
        try:
            blosc.decompress(self.frame(coordinates), into)
        except (RuntimeError, ValueError) as error:
            raise UnreadableChunkError(str(error)) from None


def read_whole_chunks(folder: str, array: zarr.Array[Any], index: Index) -> npt.NDArray[Any] | None:
    """``array[index]`` of the ``array`` in a local ``folder``; None where zarr-python is to read it.

    So it is where ``index`` touches chunks in part or beyond the array's end, or where one cannot be read.
    """
    whole = all(stop % chunk == 0 for (_, stop), chunk in zip(bounds(array, index), array.chunks, strict=True))
    reader = ChunkReader.of(folder, array) if whole and covers_chunks(array, index) else None
    if reader is None:
        return None
    values = np.empty([len(range(*picked.indices(size))) for picked, size in slices(array, index)], array.dtype)
    try:
        for coordinates, place in pieces(array, index):
            part = values[place]
            if part.flags.c_contiguous:
                reader.read(coordinates, part)
            else:
                chunk = np.empty(part.shape, array.dtype)
                reader.read(coordinates, chunk)
                part[...] = chunk
    except UnreadableChunkError:
        return None
    return values


def _contents(path: str) -> npt.NDArray[np.uint8]:
    """A file's bytes, until this thread's next call: freed and asked for each time, their memory leaves holes."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if not hasattr(_own, "memory") or _own.memory.size < size:
            _own.memory = _aligned(size + size // 8)  # chunks differ a little
        contents: npt.NDArray[np.uint8] = _own.memory[:size]
        if file.readinto(contents.data) != size:
            raise UnreadableChunkError("it could not be read to its end")
    return contents


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """``size`` bytes that begin a page, as a file's do: 16 bytes further the system copies at a third of its speed."""
    whole = np.empty(size + _PAGE_BYTES, np.uint8)
    start = -whole.ctypes.data % _PAGE_BYTES
    return whole[start : start + size]
