"""What happens to the place of a store between the first look and the writing: nothing is lost to another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capture import session
from capture.destination import Destination
from schemas import Run
from schemas.errors import StoreError
from schemas.run_writer import RunWriter, is_being_written
from tests.capture.captures import capture, contents
from tests.capture.forked_captures import Captures
from tests.capture.refused import tree
from tests.stores import write_store

FLAGS = ("--sequences", 2, "--length", 16)


@pytest.fixture
def folder(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("qwen3")


@pytest.fixture
def finished(folder: Path, text: Path, tmp_path: Path) -> Path:
    store = tmp_path / "finished.zarr"
    assert capture(folder, store, text, *FLAGS) == 0
    return store


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_store_that_appears_while_the_model_loads_is_kept(
    overwrite: list[str],
    folder: Path,
    finished: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "run.zarr"
    held = contents(finished)

    def meanwhile(*arguments: Any) -> Any:
        finished.rename(place)
        return load_model(*arguments)

    load_model = session.load_model
    monkeypatch.setattr(session, "load_model", meanwhile)
    assert capture(folder, place, text, "--sequences", 1, "--length", 8, *overwrite) == 2
    assert "--overwrite to replace it" in capsys.readouterr().err
    assert contents(place) == held


@pytest.mark.slow
def test_two_captures_started_together_leave_one_whole_store(
    captures: Captures, folder: Path, text: Path, tmp_path: Path
) -> None:
    store = tmp_path / "run.zarr"
    command = [*map(str, ["--model", folder, "--store", store, "--text", text, "-q", *FLAGS])]
    both = captures.together([command, command], tmp_path)
    assert [answer["status"] for answer in both] == [0, 0], both
    assert Run(store).complete_sequences() == [0, 1]
    alone = tmp_path / "alone.zarr"
    assert capture(folder, alone, text, *FLAGS) == 0
    mine, theirs = contents(store), contents(alone)
    assert {k: v for k, v in mine.items() if k != "zarr.json"} == {k: v for k, v in theirs.items() if k != "zarr.json"}


def test_a_store_that_is_being_written_is_not_replaced(finished: Path) -> None:
    destination = Destination(finished, overwrite=True)
    before = tree(finished)
    writer = RunWriter(finished)
    assert is_being_written(finished)
    with pytest.raises(StoreError, match="another capture is writing"):
        destination.clear()
    assert tree(finished) == before
    del writer
    assert not is_being_written(finished)
    destination.clear()
    assert not finished.exists()


def test_a_link_is_not_replaced(
    folder: Path, finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link.zarr"
    link.symlink_to(finished)
    before = tree(finished)
    assert capture(folder, link, text, *FLAGS, "--overwrite") == 2
    assert str(finished) in capsys.readouterr().err
    assert link.is_symlink()
    assert tree(finished) == before


@pytest.mark.parametrize("there", [True, False])
def test_what_a_killed_replacement_left_is_removed_by_the_next(there: bool, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    if there:
        write_store(store, {"ln_attn": np.ones((1, 1, 2, 3), np.float32)})
    left, mine = tmp_path / "run.zarr.replaced-by-capture", tmp_path / "run.zarr.replaced"
    for folder in (left, mine):
        folder.mkdir()
        (folder / "zarr.json").write_text("{}")
    Destination(store, overwrite=False).clear()
    assert left.exists()
    Destination(store, overwrite=True).clear()
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.slow
def test_a_full_output_is_an_error_without_a_traceback(folder: Path, text: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "capture.cli", "--model", folder, "--store", tmp_path / "r.zarr"]
    command += ["--dry-run", "--text", text, *FLAGS]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*map(str, command)], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "capture: error: [Errno 28] No space left on device\n"
