"""Creating, opening, writing, committing and damaging a run store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from schemas import Run
from schemas.bits import ENCODINGS
from schemas.create import create_run
from schemas.errors import CorruptChunkError, StoreError
from schemas.layout import Dimensions, plan_arrays
from schemas.provenance import RunInfo, differences, parse_attributes
from schemas.run import RunWriter, store_bytes
from tests.buckets import Served, served_folder

MakeStore = Callable[..., Any]


def edit_root(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    metadata = json.loads((path / "zarr.json").read_text())
    change(metadata)
    (path / "zarr.json").write_text(json.dumps(metadata))


def set_attributes(path: Path, **changes: Any) -> None:
    edit_root(path, lambda metadata: metadata["attributes"].update(changes))


# Creating


@pytest.mark.parametrize("bits", ENCODINGS)
def test_a_new_store_has_every_array_empty_and_nothing_committed(make_store: MakeStore, bits: str) -> None:
    made = make_store(bits, commit=False)
    run = Run(made.path)
    assert run.dimensions == made.dimensions
    assert run.info == made.info
    for spec in plan_arrays(made.dimensions, made.info.stored_sites, made.encoding):
        array = run.array(spec.name)
        assert spec.name in run
        assert array.shape == spec.shape
        assert array.chunks == spec.chunks
        assert array.dtype == spec.dtype
        assert array.metadata.dimension_names == spec.dims
        assert dict(array.attrs) == dict(spec.attributes)
        if spec.name not in made.written:
            np.testing.assert_array_equal(run.read(spec.name), np.full(spec.shape, spec.fill, spec.dtype))
    np.testing.assert_array_equal(run.read("token_id"), made.written["token_id"])
    assert not run.committed().any()
    assert run.complete_sequences() == []


def test_codecs_are_explicit_in_every_array_and_end_in_crc32c(make_store: MakeStore) -> None:
    made = make_store(commit=False)
    files = sorted(made.path.glob("*/zarr.json"))
    assert len(files) == 12
    for file in files:
        metadata = json.loads(file.read_text())
        size = np.dtype(metadata["data_type"]).itemsize
        store_order = {"name": "bytes", "configuration": {"endian": "little"}} if size > 1 else {"name": "bytes"}
        blosc = {"typesize": size, "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
        assert metadata["codecs"] == [store_order, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}]
        assert metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "."}}
        assert metadata["chunk_grid"]["name"] == "regular"


def test_an_existing_path_is_not_overwritten(make_store: MakeStore) -> None:
    made = make_store()
    with pytest.raises(StoreError, match="--overwrite"):
        make_store()
    assert Run(made.path).complete_sequences() == [0, 1]


def test_an_unwritable_place_is_an_error_that_names_it(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/run\.zarr.*--store"):
        make_store(name="file/run.zarr")
    assert (tmp_path / "file").read_text() == ""


def test_a_failed_creation_leaves_nothing(make_store: MakeStore, tmp_path: Path) -> None:
    made = make_store(commit=False, name="model.zarr")
    shutil.rmtree(made.path)
    specs = plan_arrays(made.dimensions, made.info.stored_sites, made.encoding)
    with pytest.raises(ValueError, match="token_id has shape"):
        create_run(made.path, made.info, specs, {"token_id": np.zeros((9, 9), np.int32)})
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys, zarr
from schemas import create
zarr.consolidate_metadata = lambda store: os.kill(os.getpid(), signal.SIGKILL)
from schemas.bits import ENCODINGS
from schemas.layout import plan_arrays
from schemas.provenance import RunInfo
info = RunInfo.model_validate_json(sys.stdin.read())
create.create_run(sys.argv[1], info, [], {})
"""


def test_a_killed_creation_leaves_no_store_and_the_next_one_clears_its_draft(
    make_store: MakeStore, tmp_path: Path
) -> None:
    first = make_store(name="other.zarr")
    path = tmp_path / "run.zarr"
    text = first.info.model_dump_json().encode()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], input=text, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 2  # the other store and the draft
    make_store()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.zarr", "run.zarr"]


@pytest.mark.parametrize("shape", [(9, 9), (5, 8), (7, 5), (7,), (1, 1, 5, 7), ()])
def test_values_of_another_shape_than_the_selection_are_refused(make_store: MakeStore, shape: tuple[int, ...]) -> None:
    writer = RunWriter(make_store(commit=False).path)
    with pytest.raises(ValueError, match=r"takes an array of shape \(5, 7\)"):
        writer.write("ln_attn", (0, 0), np.ones(shape, np.uint16))


def test_values_that_are_not_patterns_are_refused(make_store: MakeStore) -> None:
    writer = RunWriter(make_store(commit=False).path)
    with pytest.raises(ValueError, match="bit patterns in uint16, not float32"):
        writer.write("ln_attn", (0, 0), np.ones((5, 7), np.float32))


# Opening


def test_a_path_that_does_not_exist_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"does not exist.*capture --model NAME --store"):
        Run(tmp_path / "absent.zarr")


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no zarr\.json"):
        Run(tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match="not a run store"):
        Run(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"zarr_format": 4}', '"text"', "\x00\xff"])
def test_a_damaged_zarr_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(StoreError, match="not a readable Zarr v3 group"):
        Run(tmp_path)


def test_an_array_is_no_run_store(make_store: MakeStore) -> None:
    made = make_store()
    with pytest.raises(StoreError, match="not a readable Zarr v3 group"):
        Run(made.path / "ln_attn")


def test_another_zarr_group_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(StoreError, match="format 'outlier-features-run'"):
        Run(tmp_path / "group.zarr")


@pytest.mark.parametrize("version", ["2.0", "2.7", "10.0"])
def test_a_newer_major_version_is_refused_with_what_to_do(make_store: MakeStore, version: str) -> None:
    made = make_store()
    set_attributes(made.path, format_version=version)
    with pytest.raises(StoreError, match=rf"version {version}.*reads up to 1\.x.*pip install --upgrade"):
        Run(made.path)


@pytest.mark.parametrize("version", ["", "one", None])
def test_a_malformed_version_is_refused(make_store: MakeStore, version: str | None) -> None:
    made = make_store()
    set_attributes(made.path, format_version=version)
    with pytest.raises(StoreError, match=r"MAJOR\.MINOR"):
        Run(made.path)


def test_a_newer_minor_version_is_read_and_its_attributes_survive(make_store: MakeStore) -> None:
    made = make_store()

    def newer(metadata: dict[str, Any]) -> None:
        attributes = metadata["attributes"]
        attributes |= {"format_version": "1.9", "observatory": {"floor": 5}}
        attributes["model"]["tied"] = True
        attributes["sites"]["ln_mlp"]["width"] = "wide"
        attributes["corpus"]["packing"] = ["a", "b"]

    edit_root(made.path, newer)
    stored = json.loads((made.path / "zarr.json").read_text())["attributes"]
    run = Run(made.path)
    assert run.info.format_version == "1.9"
    assert run.info.model_dump(mode="json") == stored
    assert RunInfo.model_validate_json(run.info.model_dump_json()) == run.info
    np.testing.assert_array_equal(run.read("ln_attn").view(np.uint16), made.written["ln_attn"])


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        ("bits", "float8", "bits"),
        ("model", None, "model"),
        ("sites", {"a": 3}, "sites.a"),
        ("signature", 3, "signature"),
    ],
)
def test_damaged_attributes_are_named(make_store: MakeStore, where: str, value: Any, named: str) -> None:
    made = make_store()
    set_attributes(made.path, **{where: value})
    with pytest.raises(StoreError, match=f"damaged attributes.*{named}"):
        Run(made.path)


def test_a_missing_attribute_is_named(make_store: MakeStore) -> None:
    made = make_store()
    edit_root(made.path, lambda metadata: metadata["attributes"]["corpus"].pop("length"))
    with pytest.raises(StoreError, match=r"corpus\.length"):
        Run(made.path)


def test_an_array_that_is_not_there_is_named_with_those_that_are(make_store: MakeStore) -> None:
    run = Run(make_store().path)
    assert "residual" not in run
    with pytest.raises(StoreError, match=r"no array 'residual'.*ln_attn"):
        run.array("residual")


def test_differences_lists_changed_added_and_dropped_settings() -> None:
    found = differences({"a": 1, "b": 2, "gone": "x"}, {"a": 1, "b": 3, "new": True})
    assert found == [("b", 2, 3), ("gone", "x", None), ("new", None, True)]


def test_parse_attributes_keeps_what_it_was_given(make_store: MakeStore) -> None:
    made = make_store()
    attributes = dict(zarr.open_group(made.path, mode="r").attrs)
    assert parse_attributes(attributes, "here").model_dump(mode="json") == attributes


# Writing and committing


@pytest.mark.parametrize("bits", ENCODINGS)
def test_what_is_written_is_read_bit_for_bit(make_store: MakeStore, bits: str) -> None:
    made = make_store(bits)
    run = Run(made.path)
    unsigned = made.encoding.unsigned
    for name, values in made.written.items():
        read = run.read(name)
        assert read.dtype == values.dtype
        if values.dtype == made.encoding.stored:
            np.testing.assert_array_equal(read.view(unsigned), values.view(unsigned))
        else:
            np.testing.assert_array_equal(read, values)
    assert run.committed().all()
    assert run.complete_sequences() == [0, 1]
    part = (2, slice(0, 1), slice(1, 4), -1)
    np.testing.assert_array_equal(
        run.read("ln_attn", part).view(unsigned), made.written["ln_attn"].view(unsigned)[part]
    )


def test_only_committed_cells_count(make_store: MakeStore) -> None:
    made = make_store(commit=False)
    writer = RunWriter(made.path)
    writer.write("ln_attn", (0, 1), np.ones((5, 7), np.uint16))
    assert not Run(made.path).committed().any()
    writer.commit([0], [1])
    expected = np.zeros((3, 2), bool)
    expected[0, 1] = True
    np.testing.assert_array_equal(Run(made.path).committed(), expected)
    assert Run(made.path).complete_sequences() == []
    writer.commit([1, 2], [1])
    assert Run(made.path).complete_sequences() == [1]
    writer.commit(range(3), range(2))
    assert Run(made.path).complete_sequences() == [0, 1]


def test_data_reaches_the_disk_before_the_commit_that_vouches_for_it(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_store(commit=False)
    writer = RunWriter(made.path)
    writer.write("ln_attn", (0, 1), np.ones((5, 7), np.uint16))
    flushed: list[tuple[str, bool]] = []

    def flush(path: Path) -> None:
        flushed.append((path.relative_to(made.path).as_posix(), bool(Run(made.path).committed().any())))

    monkeypatch.setattr("schemas.durable.flush", flush)
    writer.commit([0], [1])
    assert flushed == [
        ("ln_attn/c.0.1.0.0", False),
        ("ln_attn", False),
        ("committed/c.0.1", True),
        ("committed", True),
    ]


def test_a_commit_whose_flush_fails_commits_nothing_and_can_be_repeated(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_store(commit=False)
    writer = RunWriter(made.path)
    writer.write("ln_attn", (0, 1), np.ones((5, 7), np.uint16))

    def broken(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("schemas.durable.flush", broken)
        with pytest.raises(OSError, match="No space"):
            writer.commit([0], [1])
    assert not Run(made.path).committed().any()
    flushed: list[str] = []
    monkeypatch.setattr("schemas.durable.flush", lambda path: flushed.append(path.name))
    writer.commit([0], [1])
    assert "c.0.1.0.0" in flushed
    assert Run(made.path).committed().sum() == 1


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_write_cells_and_commit_without_losing_any(make_store: MakeStore, threads: int) -> None:
    sizes = Dimensions(layers=12, sequences=4, positions=16, features=8)
    made = make_store(dimensions=sizes, commit=False)
    writer = RunWriter(made.path)
    generator = np.random.default_rng(0)
    slices = generator.integers(0, 65536, (12, 4, 16, 8)).astype(np.uint16)
    counts = generator.integers(1, 2**40, (12, 4)).astype(np.uint64)
    gate = threading.Barrier(threads)

    def work(worker: int) -> None:
        gate.wait()
        for layer in range(worker, 12, threads):  # so that all threads meet in every column of the counts
            for sequence in range(4):
                writer.write("ln_attn", (layer, sequence), slices[layer, sequence])
                writer.write("ln_attn_layer_peak", (layer, sequence), slices[layer, sequence, 0])
                writer.write("ln_attn_nonfinite", (layer, sequence), counts[layer, sequence])
                writer.commit([layer], [sequence])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    run = Run(made.path)
    assert run.committed().all()
    np.testing.assert_array_equal(run.read("ln_attn"), slices)
    np.testing.assert_array_equal(run.read("ln_attn_layer_peak"), slices[:, :, 0])
    np.testing.assert_array_equal(run.read("ln_attn_nonfinite"), counts)


def test_no_commit_passes_one_that_is_still_flushing_its_data(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_store(commit=False)
    writer = RunWriter(made.path)
    flushed: list[str] = []

    def slow(path: Path) -> None:
        time.sleep(0.05)
        flushed.append(path.name)

    monkeypatch.setattr("schemas.durable.flush", slow)
    for layer in range(3):
        writer.write("ln_attn", (layer, 0), np.ones((5, 7), np.uint16))
    first = threading.Thread(target=writer.commit, args=([0], [0]))
    first.start()
    time.sleep(0.02)  # the first has taken all three files and is flushing them
    writer.commit([1, 2], [0])
    data = [flushed.index(f"c.{layer}.0.0.0") for layer in range(3)]
    assert max(data) < flushed.index("c.0.0")
    first.join()
    assert Run(made.path).complete_sequences() == [0]


def test_processes_fill_disjoint_sequences_of_one_store(make_store: MakeStore) -> None:
    made = make_store(commit=False)
    script = """
import sys, numpy as np
from schemas.run import RunWriter
writer, sequence = RunWriter(sys.argv[1]), int(sys.argv[2])
for layer in range(3):
    for name in ("ln_attn", "ln_mlp"):
        writer.write(name, (layer, sequence), np.full((5, 7), 10 * layer + sequence, np.uint16))
        writer.write(f"{name}_nonfinite", (layer, sequence), np.uint64(layer + 1))
    writer.commit([layer], [sequence])
"""
    workers = [subprocess.Popen([sys.executable, "-c", script, str(made.path), str(s)]) for s in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    run = Run(made.path)
    assert run.committed().all()
    expected = 10 * np.arange(3)[:, None] + np.arange(2)
    np.testing.assert_array_equal(run.read("ln_mlp")[:, :, 0, 0], expected)
    np.testing.assert_array_equal(run.read("ln_mlp_nonfinite"), np.array([[1, 1], [2, 2], [3, 3]]))


def test_what_a_killed_writer_left_half_written_is_swept_by_the_next_alone(make_store: MakeStore) -> None:
    made = make_store()
    leftover = made.path / "ln_attn" / "c.0.0.0.0123abcd.partial"
    leftover.write_bytes(b"half")
    Run(made.path)
    assert leftover.exists()
    script = (
        "import sys; from schemas.run import RunWriter; w = RunWriter(sys.argv[1]); print('open', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(made.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert not leftover.exists()
        leftover.write_bytes(b"half")  # as the other would, in the middle of a write
        RunWriter(made.path)
        assert leftover.exists()
        other.communicate(b"\n")
    RunWriter(made.path)
    assert not leftover.exists()
    assert Run(made.path).complete_sequences() == [0, 1]


def test_store_bytes_counts_every_file(make_store: MakeStore) -> None:
    made = make_store()
    total = sum(
        os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(made.path) for name in names
    )
    assert store_bytes(made.path) == total > 0


# Damage


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
