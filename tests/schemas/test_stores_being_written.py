"""Reading a store while other processes fill it: what they have not finished is no damage, what vanishes no error."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from schemas.errors import CorruptChunkError
from schemas.run import Run, store_bytes
from schemas.run_writer import RunWriter

MakeStore = Callable[..., Any]


class Overtaken(Run):
    """A reader during whose next look at the commit log another process finishes a sequence: the worst moment."""

    def finish(self) -> None:
        """What the other process does then, once."""

    def committed(self) -> npt.NDArray[np.bool_]:
        finish, self.finish = self.finish, lambda: None  # type: ignore[method-assign]
        finish()
        return super().committed()


@pytest.mark.parametrize("name", ["ln_attn", "ln_attn_layer_peak", "ln_attn_position_peak"])
def test_a_chunk_that_is_written_and_committed_meanwhile_is_no_damage(make_store: MakeStore, name: str) -> None:
    made = make_store(commit=False)
    index = (0,) if "position" in name else (slice(None), 0)
    values = RunWriter(made.path).read(name, index)
    for file in (made.path / name).glob("c.*"):
        file.unlink()
    run = Overtaken(made.path)

    def finish() -> None:
        writer = RunWriter(made.path)
        writer.write(name, index, values)
        writer.commit(range(run.dimensions.layers), [0])

    run.finish = finish  # type: ignore[method-assign]
    run.read(name, index)
    np.testing.assert_array_equal(run.read(name, index), values)
    for file in (made.path / name).glob("c.*"):
        file.unlink()
    with pytest.raises(CorruptChunkError, match="the file is missing"):
        run.read(name, index)


def test_bytes_are_counted_while_files_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "stays").write_bytes(b"12345")
    ended = threading.Event()

    def work() -> None:
        folder = tmp_path / ".resume"
        for turn in range(10**9):
            if ended.is_set():
                return
            folder.mkdir(exist_ok=True)
            draft = folder / f"{turn}.partial"
            draft.write_bytes(b"x")
            draft.rename(folder / "kept")
            if turn % 5 == 0:
                shutil.rmtree(folder)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        until = time.monotonic() + 1.0  # a count that trips over them did so within 40 calls, of thousands
        while time.monotonic() < until:
            assert 5 <= store_bytes(tmp_path) <= 7
    finally:
        ended.set()
        worker.join()
