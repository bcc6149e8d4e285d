"""Chunks read from their files are what zarr-python reads, and anything wrong with one is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from schemas.chunk_reading import ChunkReader, UnreadableChunkError, read_whole_chunks
from schemas.codecs import CODECS, codecs_of

RANDOM = np.random.default_rng(5)


def array(folder: Path, dtype: str, **other: Any) -> tuple[zarr.Array[Any], npt.NDArray[Any]]:
    """An array of 7 x 30 in chunks of 2 x 16, with what it holds."""
    values = RANDOM.integers(0, 2**15, (7, 30)).astype(dtype)
    made = zarr.create_array(
        zarr.storage.LocalStore(folder), shape=values.shape, chunks=(2, 16), dtype=dtype, fill_value=0, **other
    )
    made[...] = values
    return made, values


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
def test_chunks_are_those_that_zarr_reads(tmp_path: Path, codec: str, dtype: str) -> None:
    made, _ = array(tmp_path, dtype, **codecs_of(codec, np.dtype(dtype).itemsize))
    reader = ChunkReader.of(str(tmp_path), made)
    assert reader is not None
    into = np.empty((2, 16), dtype)
    for row in range(4):
        for column in range(2):
            reader.read((row, column), into)
            whole = made[row * 2 : row * 2 + 2, column * 16 : column * 16 + 16]
            np.testing.assert_array_equal(into[: whole.shape[0], : whole.shape[1]], whole)


@pytest.mark.parametrize("other", [{}, {"compressors": None}, {"compressors": zarr.codecs.ZstdCodec()}])
def test_other_codecs_are_left_to_zarr(tmp_path: Path, other: dict[str, Any]) -> None:
    assert ChunkReader.of(str(tmp_path), array(tmp_path, "uint16", **other)[0]) is None


@pytest.mark.parametrize("harm", ["missing", "empty", "short", "flipped", "checksum", "other"])
def test_damage_is_found(tmp_path: Path, harm: str) -> None:
    made, _ = array(tmp_path, "uint16", **codecs_of("lz4-5-bitshuffle", 2))
    reader = ChunkReader.of(str(tmp_path), made)
    assert reader is not None
    file = tmp_path / "c" / "1" / "0"
    data = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    elif harm == "other":  # a good chunk, of another array
        array(tmp_path / "b", "uint8", **codecs_of("lz4-5-bitshuffle", 1))
        file.write_bytes((tmp_path / "b" / "c" / "1" / "0").read_bytes())
    else:
        data[5 if harm == "flipped" else -1] ^= 1
        file.write_bytes({"empty": b"", "short": bytes(data[:3])}.get(harm, bytes(data)))
    with pytest.raises(UnreadableChunkError):
        reader.read((1, 0), np.empty((2, 16), np.uint16))


@pytest.mark.parametrize(
    ("index", "thin"),
    [
        ((slice(0, 4), slice(0, 16)), True),
        ((slice(2, 6), slice(0, 32)), True),
        ((slice(None), slice(None)), True),
        ((), True),
        ((slice(4, 8), slice(16, 32)), True),
        ((slice(0, 3), slice(None)), False),
        ((1, slice(None)), False),
        ((slice(None), slice(1, 32)), False),
    ],
)
def test_selections_of_whole_chunks_are_what_zarr_reads(tmp_path: Path, index: Any, thin: bool) -> None:
    values = RANDOM.integers(0, 2**15, (8, 32)).astype(np.uint16)
    made = zarr.create_array(
        zarr.storage.LocalStore(tmp_path),
        shape=(8, 32),
        chunks=(2, 16),
        dtype="uint16",
        **codecs_of("lz4-5-shuffle", 2),
    )
    made[...] = values
    read = read_whole_chunks(str(tmp_path), made, index)
    assert (read is not None) == thin
    if read is not None:
        np.testing.assert_array_equal(read, values[index])


def test_what_zarr_is_to_read_is_left_to_it(tmp_path: Path) -> None:
    made, _ = array(tmp_path / "ragged", "uint16", **codecs_of("lz4-5-shuffle", 2))
    assert read_whole_chunks(str(tmp_path / "ragged"), made, ()) is None  # its last chunks reach beyond its end
    values = RANDOM.integers(0, 2**15, (4, 16)).astype(np.uint16)
    made = zarr.create_array(
        zarr.storage.LocalStore(tmp_path / "a"), shape=(4, 16), chunks=(1, 16), dtype="uint16",
        **codecs_of("lz4-5-shuffle", 2),
    )  # fmt: skip
    made[...] = values
    row = read_whole_chunks(str(tmp_path / "a"), made, (2,))
    np.testing.assert_array_equal(row, values[2])
    (tmp_path / "a" / "c" / "2" / "0").unlink()
    assert read_whole_chunks(str(tmp_path / "a"), made, ()) is None
