"""A disk that fills up at any moment: said in one line, status 1, and with more room the same bits as ever."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from capture.resume import LayerCheckpoints
from schemas import Run
from tests.capture.captures import contents
from tests.capture.forked_captures import Answer
from tests.capture.small_disk import SmallDisk, pages, small_disk

STORE, SEQUENCES, LAYERS = "run.zarr", 40, 4
SHARES = (0.1, 0.5, 0.8)
"""Of a store's chunks, for which there is room in turn."""
TOO_SMALL_BYTES = 200
"""For a chunk of a site; what a capture says is shorter, and goes to a file as well."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("small") / "disk") as disk:
        yield disk


@pytest.fixture
def arguments(checkpoint: Callable[[str], Path], text: Path, disk: SmallDisk) -> Callable[[str], list[str]]:
    """Function from an engine to what ``capture`` is called with."""
    disk.captures(run=["rm", "-rf", str(disk.folder / STORE)])

    def made(engine: str) -> list[str]:
        given = ["--model", checkpoint("olmoe"), "--store", STORE, "--text", text, "--engine", engine]
        given += ["--sequences", SEQUENCES, "--length", 8, "--batch-size", 8, "--device", "cpu", "-q"]
        return [str(word) for word in given]

    return made


def sizes(store: Path) -> list[int]:
    """Disks that are too small: for a store as it is made, with its tokens, then for ever more of its other chunks."""
    chunks = [file for file in store.rglob("c.*") if file.parent.name not in ("token_id", "token_mask")]
    made = pages(set(store.rglob("*")) - set(chunks))
    return [made * 4 // 5, *(made + int(share * pages(chunks)) for share in SHARES)]


def assert_committed(held: Run, whole: Run) -> int:
    """What the log of ``held`` vouches for is as in ``whole``; the number of its cells."""
    committed = held.committed()
    for site in held.info.stored_sites:
        for layer, sequence in np.argwhere(committed):
            cell = (int(layer), int(sequence))
            np.testing.assert_array_equal(held.read(site, cell), whole.read(site, cell))
    for sequence in held.complete_sequences():
        np.testing.assert_array_equal(held.read("token_nll", (sequence,)), whole.read("token_nll", (sequence,)))
    return int(committed.sum())


def assert_said(answer: Answer, words: str) -> None:
    assert answer["status"] == 1, answer["output"]
    assert answer["output"].startswith(f"capture: error: {words}")
    assert answer["output"].count("\n") == 1


def file_limit(disk: SmallDisk, arguments: list[str], whole: Path, copies: Path) -> None:
    """Chunks that a limit on the size of files refuses, in a store that a killed run left; then without the limit."""
    answer = disk.capture(arguments, signal=signal.SIGKILL, after_new=f"{STORE}/committed/c.*")
    assert answer["status"] == -signal.SIGKILL, answer["output"]
    before = assert_committed(Run(disk.copy_out(copies / "killed") / STORE), Run(whole))
    assert_said(disk.capture(arguments, file_bytes=TOO_SMALL_BYTES), f"cannot write to {STORE}: File too large")
    assert assert_committed(Run(disk.copy_out(copies / "limited") / STORE), Run(whole)) >= before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "kind"), [("resident", "disk"), ("streamed", "disk"), ("lockstep", "disk"), ("streamed", "file")]
)
def test_a_capture_that_runs_out_of_room_continues_to_the_same_bits(
    engine: str, kind: str, arguments: Callable[[str], list[str]], disk: SmallDisk, tmp_path: Path
) -> None:
    words = arguments(engine)
    assert disk.captures(words, tmp_path)["status"] == 0
    whole = tmp_path / STORE
    if kind == "file" or not disk.mounted:
        disk.resize("64m")
        (tmp_path / "killed").mkdir()
        (tmp_path / "limited").mkdir()
        file_limit(disk, words, whole, tmp_path)
    else:
        cells = []
        for number, size in enumerate(sizes(whole)):
            disk.resize(str(size))
            foreseen = number == 0 and engine == "streamed"  # what is kept to go on from is counted
            assert_said(disk.capture(words), "the store needs about" if foreseen else f"the disk is full: {STORE}")
            (tmp_path / str(size)).mkdir()
            copy = disk.copy_out(tmp_path / str(size))
            if number == 0:  # a store that cannot be made leaves nothing
                assert list(copy.iterdir()) == []
            else:
                cells.append(assert_committed(Run(copy / STORE), Run(whole)))
        assert cells == sorted(cells)
        assert 0 < cells[-1] < LAYERS * SEQUENCES
        assert len(set(cells)) > 1
        disk.resize("64m")
    answer = disk.capture(words)
    assert answer["status"] == 0, answer["output"]
    (tmp_path / "finished").mkdir()
    finished = disk.copy_out(tmp_path / "finished")
    assert contents(finished / STORE) == contents(whole)
    assert [path.name for path in finished.iterdir()] == [STORE]


def test_hidden_states_that_cannot_be_kept_are_an_error_of_the_disk(tmp_path: Path) -> None:
    """safetensors has an exception of its own for it."""

    class Store:
        path = tmp_path

    draft = LayerCheckpoints(Store()).draft(range(1), [0], 1, torch.zeros(1, 24, 32), {})  # type: ignore[arg-type]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            draft.write()
        assert list(tmp_path.glob(".resume/*")) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
