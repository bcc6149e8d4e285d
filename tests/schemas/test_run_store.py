"""Writing to a run store and committing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Run
from schemas.bits import ENCODINGS
from schemas.layout import Dimensions
from schemas.run import store_bytes
from schemas.run_writer import RunWriter

MakeStore = Callable[..., Any]


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
        name = re.sub(r"\.\w{32}\.partial$", "", path.relative_to(made.path).as_posix())
        flushed.append((name, bool(Run(made.path).committed().any())))

    monkeypatch.setattr("schemas.durable.flush", flush)
    writer.commit([0], [1])
    assert flushed == [
        ("ln_attn/c.0.1.0.0", False),
        ("ln_attn", False),
        ("committed/c.0.1", False),  # under another name; the folder then has it under its own
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
    assert max(data) < next(i for i, name in enumerate(flushed) if name.endswith(".partial"))  # the log
    first.join()
    assert Run(made.path).complete_sequences() == [0]


def test_processes_fill_disjoint_sequences_of_one_store(make_store: MakeStore) -> None:
    made = make_store(commit=False)
    script = """
import sys, numpy as np
from schemas.run_writer import RunWriter
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
    script = "import sys; from schemas.run_writer import RunWriter; w = RunWriter(sys.argv[1]); print('open'); input()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", script, str(made.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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


def test_a_chunk_that_is_there_takes_new_bytes_once_they_are_flushed(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash took is done again over chunks that a commit, or what a run goes on from, may vouch for."""
    writer = RunWriter(make_store(commit=False).path)
    flushed: list[str] = []
    monkeypatch.setattr("schemas.durable.flush", lambda path: flushed.append(path.name))
    for value in range(2):
        writer.write("ln_attn", (0, 1), np.full((5, 7), value, np.uint16))
        assert [name[:10] for name in flushed] == ["c.0.1.0.0."] * value


def test_two_parts_of_one_chunk_are_refused(make_store: MakeStore) -> None:
    made = make_store(commit=False)
    parts = [((layer, 0), np.array(layer, np.uint64)) for layer in range(2)]
    with pytest.raises(ValueError, match="two parts touch the chunk"):
        RunWriter(made.path).write_parts("ln_attn_nonfinite", parts)
    assert not list(made.path.glob("ln_attn_nonfinite/c.*"))
