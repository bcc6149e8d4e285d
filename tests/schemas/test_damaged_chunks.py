"""Damage to a run store's chunks, on a disk and from a server: named, and never read as numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Run
from schemas.bits import ENCODINGS
from schemas.errors import CorruptChunkError, StoreError
from schemas.layout import Dimensions, plan_arrays
from schemas.run_writer import RunWriter
from tests.buckets import Served, served_folder

MakeStore = Callable[..., Any]


def test_a_flipped_byte_is_named_with_its_layer_and_sequence(make_store: MakeStore) -> None:
    made = make_store(dimensions=Dimensions(4, 3, 64, 32))
    file = made.path / "ln_mlp" / "c.2.1.0.0"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    run = Run(made.path)
    named = (
        r"ln_mlp/c\.2\.1\.0\.0 \(layer 2, sequence 1\) is damaged: its checksum does not match\. Restore.*--overwrite"
    )
    for index in [(), (2,), (2, 1), (slice(1, 4), 1, slice(3, 5))]:
        with pytest.raises(CorruptChunkError, match=named):
            run.read("ln_mlp", index)
    run.read("ln_mlp", (slice(0, 2),))
    run.read("ln_mlp", (2, 0))


@pytest.mark.parametrize("bits", ENCODINGS)
@pytest.mark.parametrize("place", [0, 5, -6, -1])
def test_a_flip_anywhere_in_a_chunk_is_found(make_store: MakeStore, bits: str, place: int) -> None:
    made = make_store(bits)
    file = made.path / "ln_attn_position_peak" / "c.1.0.0"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptChunkError, match=r"c\.1\.0\.0 \(sequence 1\)"):
        Run(made.path).read("ln_attn_position_peak")


@pytest.mark.slow
def test_a_failed_read_leaves_nothing_running(make_store: MakeStore) -> None:
    """One chunk that fails at once, among many: in a process that then ends, and in threads that fail together."""
    made = make_store(dimensions=Dimensions(60, 1, 64, 512))
    (made.path / "ln_attn" / "c.0.0.0.0").write_bytes(b"")
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from schemas import OutlierFeaturesError, Run
run = Run(sys.argv[1])
def read(_):
    try:
        run.read("ln_attn")
    except OutlierFeaturesError as error:
        return str(error)
with ThreadPoolExecutor(3) as pool:
    errors = set(pool.map(read, range(3)))
print(*errors, sep="\\n", file=sys.stderr)
"""
    for _ in range(5):
        found = subprocess.run([sys.executable, "-c", script, made.path], capture_output=True, text=True, check=True)
        (line,) = found.stderr.splitlines()
        assert line.startswith(f"{made.path}: chunk ln_attn/c.0.0.0.0 (layer 0, sequence 0) is damaged: its checksum")


@pytest.mark.parametrize("content", [b"", b"x", b"not a chunk at all"])
def test_a_truncated_chunk_is_named(make_store: MakeStore, content: bytes) -> None:
    made = make_store()
    (made.path / "ln_attn" / "c.0.1.0.0").write_bytes(content)
    with pytest.raises(CorruptChunkError, match=r"layer 0, sequence 1\) is damaged"):
        Run(made.path).read("ln_attn")


def test_the_part_of_a_split_sequence_is_named(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.layout.MAX_CHUNK_BYTES", 2 * 7 * 4)
    made = make_store()
    (made.path / "ln_attn" / "c.0.1.1.0").write_bytes(b"")
    with pytest.raises(CorruptChunkError, match=r"layer 0, sequence 1, position 4 to 4\)"):
        Run(made.path).read("ln_attn", (0, 1))


def test_a_chunk_that_the_system_does_not_let_be_read_is_not_called_damaged(make_store: MakeStore) -> None:
    made = make_store()
    file = made.path / "ln_attn" / "c.1.0.0.0"
    file.unlink()
    file.symlink_to(file.name)  # to itself: refused whoever reads it, as permissions are not
    with pytest.raises(StoreError) as refused:
        Run(made.path).read("ln_attn")
    assert not isinstance(refused.value, CorruptChunkError)
    told = str(refused.value)
    assert f"c.1.0.0.0 (layer 1, sequence 0) cannot be read: {file}: Too many levels of symbolic links. " in told
    assert "--overwrite" not in told


CHUNKS = [
    ("ln_attn", "c.1.0.0.0"),
    ("ln_attn_layer_peak", "c.1.0.0"),
    ("ln_attn_position_peak", "c.0.0.0"),
    ("ln_attn_nonfinite", "c.0.0"),
    ("token_nll", "c.0.0"),
]


@pytest.mark.parametrize(("name", "key"), CHUNKS)
def test_a_chunk_that_a_committed_cell_lacks_is_damage_and_not_nan(make_store: MakeStore, name: str, key: str) -> None:
    made = make_store()
    (made.path / name / key).unlink()
    with pytest.raises(CorruptChunkError, match=f"{name}/{key}.*sequence 0.*the file is missing"):
        Run(made.path).read(name)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """The folder of the test's stores, over HTTP."""
    with served_folder(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize(("name", "key"), CHUNKS)
def test_a_remote_store_that_lacks_a_chunk_is_damaged_too(
    make_store: MakeStore, served: Served, name: str, key: str
) -> None:
    made = make_store()
    run = Run(f"{served.url}/run.zarr")
    for whole in made.written:
        np.testing.assert_array_equal(run.read(whole), Run(made.path).read(whole))
    (made.path / name / key).unlink()
    with pytest.raises(CorruptChunkError, match=f"{name}/{key}.*sequence 0.*the file is missing"):
        run.read(name)
    run.read(name, (slice(None), 1) if "position" not in name and "token" not in name else (1,))


def test_what_a_remote_store_has_not_committed_reads_as_fill(make_store: MakeStore, served: Served) -> None:
    make_store(commit=False)
    assert (Run(f"{served.url}/run.zarr").read("ln_attn") == ENCODINGS["bfloat16"].fill).all()


def test_a_remote_store_is_asked_for_each_chunk_once(make_store: MakeStore, served: Served) -> None:
    make_store()
    run = Run(f"{served.url}/run.zarr")
    run.array("ln_attn")
    served.asked.clear()
    run.read("ln_attn")
    run.committed()
    run.complete_sequences()
    chunks = [f"/run.zarr/ln_attn/c.{layer}.{sequence}.0.0" for layer in range(3) for sequence in range(2)]
    assert sorted(served.asked) == sorted([*chunks, "/run.zarr/committed/c.0.0", "/run.zarr/committed/c.0.1"])


def test_a_file_url_is_a_local_path(make_store: MakeStore) -> None:
    made = make_store()
    run = Run(f"file://{made.path}")
    assert run.path == str(made.path)
    np.testing.assert_array_equal(run.read("ln_attn"), made.written["ln_attn"])
    (made.path / "ln_attn" / "c.1.0.0.0").unlink()
    with pytest.raises(CorruptChunkError, match=r"c\.1\.0\.0\.0.*the file is missing"):
        run.read("ln_attn")
    with pytest.raises(StoreError, match="does not exist"):
        Run(f"file://{made.path}/absent")


def test_a_chunk_equal_to_the_fill_value_is_stored_all_the_same(make_store: MakeStore) -> None:
    made = make_store(commit=False)
    writer = RunWriter(made.path)
    for spec in plan_arrays(made.dimensions, made.info.stored_sites, made.encoding):
        if spec.name not in ("token_id", "committed"):
            writer.write(spec.name, (slice(None),), np.full(spec.shape, spec.fill, spec.dtype))
    writer.commit(range(3), range(2))
    run = Run(made.path)
    for name in run.group.array_keys():
        run.read(name)
    assert len(list((made.path / "ln_attn").glob("c.*"))) == 6


def test_what_no_commit_vouches_for_reads_as_fill(make_store: MakeStore) -> None:
    made = make_store(commit=False)
    writer = RunWriter(made.path)
    writer.write("ln_attn", (0, 0), np.ones((5, 7), np.uint16))
    writer.commit([0], [0])
    read = Run(made.path).read("ln_attn")
    assert (read[0, 0] == 1).all()
    assert (read[1:] == made.encoding.fill).all()
    assert (Run(made.path).read("ln_attn_position_peak") == made.encoding.fill).all()


@pytest.mark.parametrize("content", [b"", b"torn by a power failure"])
def test_a_torn_chunk_counts_as_fill_until_a_committed_cell_needs_it(content: bytes, make_store: MakeStore) -> None:
    """As a chunk of rows of all layers is after a power failure, where nothing had been committed yet."""
    made = make_store(commit=False)
    writer = RunWriter(made.path)
    writer.write("ln_attn_nonfinite", (slice(None), 0), np.full(3, 9, np.uint64))
    (chunk,) = (made.path / "ln_attn_nonfinite").glob("c.*")
    chunk.write_bytes(content)
    writer.commit([0], [1])  # another sequence's
    writer.write("ln_attn_nonfinite", (1, 0), np.array(5, np.uint64))
    assert Run(made.path).read("ln_attn_nonfinite", (slice(None), 0)).tolist() == [0, 5, 0]
    writer.commit([1], [0])
    chunk.write_bytes(content)
    with pytest.raises(CorruptChunkError, match="ln_attn_nonfinite"):
        writer.write("ln_attn_nonfinite", (2, 0), np.array(5, np.uint64))
    assert chunk.read_bytes() == content
    assert not list(made.path.glob("*/*.partial"))
