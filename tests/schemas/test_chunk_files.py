"""Chunks that are written as files are, byte for byte, those that zarr-python writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

from schemas import layout
from schemas.bits import ENCODINGS
from schemas.chunk_files import ChunkFiles
from schemas.create import create_run
from schemas.layout import Dimensions, plan_arrays
from schemas.run_writer import RunWriter
from tests.stores import run_info

Array = np.ndarray[Any, Any]

DIMENSIONS = Dimensions(layers=3, sequences=2, positions=37, features=24)
CODECS = [
    ("lz4", 5, "bitshuffle", 0),
    ("lz4", 5, "shuffle", 0),
    ("lz4", 1, "noshuffle", 0),
    ("lz4hc", 3, "shuffle", 0),
    ("zstd", 3, "bitshuffle", 0),
    ("zstd", 1, "shuffle", 256),
    ("zlib", 5, "bitshuffle", 0),
    ("blosclz", 5, "bitshuffle", 0),
]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def values_for(array: zarr.Array[Any], index: tuple[int | slice, ...]) -> Array:
    """Numbers of all sizes, some in runs that compress, for a selection of ``array``."""
    shape = np.empty(array.shape, bool)[index].shape
    generator = np.random.default_rng(7)
    numbers = generator.standard_normal(shape) * 100
    return np.where(generator.random(shape) < 0.5, 3, numbers).astype(array.dtype)


def indices(array: zarr.Array[Any]) -> Iterator[tuple[int | slice, ...]]:
    """Selections that cover whole chunks: all, one of each first axis kept or dropped, and the last."""
    yield ()
    first = array.chunks[0]
    yield (slice(0, first),)
    yield (slice((array.shape[0] - 1) // first * first, None),)
    if first == 1:
        yield (array.shape[0] - 1,)
    elif array.ndim > 1 and array.chunks[1] == 1:
        yield (slice(None), array.shape[1] - 1)


@pytest.mark.parametrize("bits", ENCODINGS)
@pytest.mark.parametrize("chunk_bytes", [layout.MAX_CHUNK_BYTES, 700])
def test_every_array_of_a_run(bits: str, chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        layout, "MAX_CHUNK_BYTES", chunk_bytes
    )  # 700: positions are split, and the last chunk reaches out
    specs = plan_arrays(DIMENSIONS, ("ln_attn",), ENCODINGS[bits])
    ours, theirs = (tmp_path / name for name in ("ours.zarr", "theirs.zarr"))
    for path in (ours, theirs):
        create_run(path, run_info(DIMENSIONS, ("ln_attn",), bits), specs, {})
    writer, group = RunWriter(ours), zarr.open_group(theirs, mode="r+")
    for spec in specs:
        reference = group[spec.name].with_config({"write_empty_chunks": True})
        for index in indices(reference):
            values = values_for(reference, index)
            writer.write(spec.name, index, values)
            reference[index or ...] = values
            assert files_of(ours / spec.name) == files_of(theirs / spec.name), (spec.name, index)
        assert len(files_of(ours / spec.name)) == spec.chunk_count + 1


@pytest.mark.parametrize(("name", "level", "shuffle", "block"), CODECS)
@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
def test_every_kind_of_blosc(name: Any, level: int, shuffle: Any, block: int, dtype: str, tmp_path: Path) -> None:
    size = np.dtype(dtype).itemsize
    arrays = [
        zarr.create_array(
            tmp_path / which,
            shape=(5, 40),
            chunks=(2, 40),
            dtype=dtype,
            fill_value=9,
            chunk_key_encoding={"name": "default", "separator": "."},
            serializer=BytesCodec(endian="little" if size > 1 else None),
            compressors=[
                BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=size, blocksize=block),
                Crc32cCodec(),
            ],
        )
        for which in ("ours", "theirs")
    ]
    values = values_for(arrays[0], ())
    files = ChunkFiles.of(str(tmp_path / "ours"), arrays[0])
    assert files is not None
    written = list(files.write((), values))
    arrays[1][...] = values
    assert written == [tmp_path / "ours" / f"c.{row}.0" for row in range(3)]
    for file in written:
        assert file.read_bytes() == (tmp_path / "theirs" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("serializer", "compressors"),
    [
        (BytesCodec(endian="little"), [ZstdCodec(level=1), Crc32cCodec()]),
        (BytesCodec(endian="little"), [BloscCodec(cname="lz4", shuffle="shuffle", typesize=2)]),
        (BytesCodec(endian="big"), [BloscCodec(cname="lz4", shuffle="shuffle", typesize=2), Crc32cCodec()]),
    ],
)
def test_other_codecs_are_left_to_zarr(serializer: Any, compressors: Any, tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a", shape=(4,), chunks=(2,), dtype="uint16", serializer=serializer, compressors=compressors
    )
    assert ChunkFiles.of(str(tmp_path / "a"), array) is None


def test_a_chunk_that_cannot_be_written_leaves_the_one_before_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = plan_arrays(DIMENSIONS, ("ln_attn",), ENCODINGS["bfloat16"])
    create_run(tmp_path / "run.zarr", run_info(DIMENSIONS, ("ln_attn",)), specs, {})
    writer = RunWriter(tmp_path / "run.zarr")
    values = values_for(writer.array("ln_attn"), (0, 0))
    writer.write("ln_attn", (0, 0), values)

    def full(draft: str, file: Path) -> None:
        assert Path(draft).stat().st_size > 0
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("schemas.chunk_files.os.replace", full)
        with pytest.raises(OSError, match="No space left"):
            writer.write("ln_attn", (0, 0), values + 1)
    np.testing.assert_array_equal(writer.read("ln_attn", (0, 0)), values)
    assert sorted(files_of(tmp_path / "run.zarr/ln_attn")) == ["c.0.0.0.0", "zarr.json"]
