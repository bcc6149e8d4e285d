"""Writers that fill one store at the same time: no change is lost, and nothing of a live one is swept."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from schemas.create import remove_drafts
from schemas.layout import Dimensions
from schemas.run_writer import RunWriter, is_being_written

MakeStore = Callable[..., Any]


def test_processes_that_write_the_same_sequence_lose_nothing_of_each_other(make_store: MakeStore) -> None:
    """Two writers, whose locks are their own as two processes' are, each change parts of chunks that both write."""
    made = make_store(dimensions=Dimensions(layers=40, sequences=1, positions=1, features=1), commit=False)
    writers = [RunWriter(made.path), RunWriter(made.path)]
    start = threading.Barrier(2)

    def fill(turn: int) -> None:
        start.wait()
        for layer in range(turn, 40, 2):
            writers[turn].write("ln_attn_nonfinite", (layer, 0), np.array(layer + 1, np.uint64))
            writers[turn].commit([layer], [0])

    threads = [threading.Thread(target=fill, args=(turn,)) for turn in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = zarr.open_group(made.path, mode="r")
    assert log["committed"][:, 0].all()  # type: ignore[index, union-attr]
    assert log["ln_attn_nonfinite"][:, 0].tolist() == list(range(1, 41))  # type: ignore[index, union-attr]


def test_a_writer_does_not_sweep_what_another_is_writing(make_store: MakeStore) -> None:
    made = make_store()
    first = RunWriter(made.path)
    being_written = made.path / "ln_attn" / "c.0.0.0.0.0123.partial"
    being_written.write_bytes(b"half")
    second = RunWriter(made.path)
    second.sweep()
    assert being_written.exists()
    del first
    second.sweep()
    assert not being_written.exists()
    assert is_being_written(made.path)  # the lock that says so is shared again


def test_drafts_of_killed_processes_are_removed_and_those_of_live_ones_are_not(tmp_path: Path) -> None:
    host = socket.gethostname()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    names = [f"run.zarr.new-{host}-{int(ended.stdout)}", f"run.zarr.new-{host}-{os.getppid()}", "run.zarr.new-x-1"]
    for name in names:
        (tmp_path / name).mkdir()
    remove_drafts(tmp_path / "run.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
