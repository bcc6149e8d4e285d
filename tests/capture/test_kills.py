"""A capture killed or interrupted at any moment, twenty times over, ends in the bits of one that nobody disturbed."""

from __future__ import annotations

import functools
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from schemas import Run
from tests.capture.captures import contents
from tests.capture.forked_captures import Captures

MANY, FEW = 60, 8
BATCH_SIZE = 2
STORE = "run.zarr"
KILLS, MOST_KILLS = 20, 40

AIMS = {
    # where a kill is aimed: the path whose appearance starts the clock, and the longest delay after it, as a share of
    # the time that a whole capture takes
    "creating": (f"{STORE}.new-*", 0.02),
    "writing": (f"{STORE}/ln_*/c.*", 0.02),
    "before commit": (f"{STORE}/token_nll/c.*", 0.004),
    "amid a commit": (f"{STORE}/committed/c.*.partial", 0),
    "after commit": (f"{STORE}/committed/c.*[0-9]", 0.004),
    "any time": (None, 0.3),
}
CREATION_KILLS = 4
STAGES = {"creating", "amid a batch's data", "all data without a commit"}
COMMITS = 4
"""Kills that are to come after a commit of their own run."""


@dataclass(frozen=True)
class Undisturbed:
    """A capture that nobody disturbed: its arguments, the files that it made, and how long it took."""

    arguments: list[str]
    files: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(
    captures: Captures, checkpoint: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Undisturbed]:
    """Function from a number of sequences to a capture of them into a store in the working directory."""

    @functools.cache
    def made(sequences: int) -> Undisturbed:
        flags: dict[str, Any] = {"--model": checkpoint("olmoe"), "--store": STORE, "--text": text, "--device": "cpu"}
        flags |= {"--sequences": sequences, "--length": 8, "--batch-size": BATCH_SIZE}
        arguments = [*(str(part) for flag in flags.items() for part in flag), "-q"]
        folder = tmp_path_factory.mktemp("undisturbed")
        answer = captures(arguments, folder)
        assert answer["status"] == 0, answer["output"]
        assert Run(folder / STORE).committed().all()
        return Undisturbed(arguments, contents(folder / STORE), answer["seconds"])

    return made


def assert_finishes(captures: Captures, folder: Path, undisturbed: Undisturbed) -> None:
    """One more run completes the store in ``folder``, each file as in the undisturbed one, and leaves nothing else."""
    answer = captures(undisturbed.arguments, folder)
    assert answer["status"] == 0, answer["output"]
    assert [path.name for path in folder.iterdir()] == [STORE]
    run = Run(folder / STORE)
    assert run.committed().all()
    finished = contents(folder / STORE)
    assert finished.keys() == undisturbed.files.keys()
    assert [name for name in finished if finished[name] != undisturbed.files[name]] == []
    for name in run.group.array_keys():
        run.read(name)  # and every checksum holds


def sequences_written(store: Path, array: str, since: float) -> Counter[int]:
    """Sequence -> how many of its chunks of ``array`` were written since then."""
    position = {"ln_attn": 2, "ln_mlp": 2, "token_nll": 1, "committed": 2}[array]
    chunks = (file for file in (store / array).glob("c.*") if re.fullmatch(r"c[.\d]+", file.name))
    return Counter(int(file.name.split(".")[position]) for file in chunks if file.stat().st_mtime >= since)


def stage(folder: Path, since: float) -> str:
    """Where a kill landed, by what the killed process had written since it started."""
    store = folder / STORE
    if not store.exists():
        return "creating" if list(folder.glob(f"{STORE}.new-*")) else "before creating"
    committed = set(sequences_written(store, "committed", since))
    slices = sequences_written(store, "ln_attn", since) + sequences_written(store, "ln_mlp", since)
    dangling = {sequence: count for sequence, count in slices.items() if sequence not in committed}
    if not dangling:
        return "just after a commit" if committed else "before writing"
    ended = sequences_written(store, "token_nll", since)
    if any(count == 2 * Run(store).dimensions.layers and ended[sequence] for sequence, count in dangling.items()):
        return "all data without a commit"  # of one batch: the next may be on its way
    return "amid a batch's data"


def complete(folder: Path) -> int:
    store = folder / STORE
    return len(Run(store).complete_sequences()) if store.exists() else 0


def test_twenty_kills_and_one_finish(
    captures: Captures, undisturbed: Callable[[int], Undisturbed], disk_folder: Path
) -> None:
    whole, choose = undisturbed(MANY), random.Random(0)
    landed: Counter[str] = Counter()
    progress: list[int] = []
    while len(progress) < KILLS or not landed.keys() >= STAGES or len(set(progress)) < COMMITS + 1:
        assert len(progress) < MOST_KILLS, f"no kill hit {STAGES - set(landed)}: {landed}, {progress}"
        aim = "creating" if len(progress) < CREATION_KILLS else choose.choice([*AIMS][1:])
        pattern, longest = AIMS[aim]
        delay = choose.uniform(0, longest) * whole.seconds if progress else 0
        since = time.time() - 0.01  # a file system's clock ticks more coarsely
        answer = captures(whole.arguments, disk_folder, signal=signal.SIGKILL, after_new=pattern, delay_seconds=delay)
        assert answer["status"] == -signal.SIGKILL, (answer["output"], landed, progress)
        landed[stage(disk_folder, since)] += 1
        progress.append(complete(disk_folder))
    assert progress == sorted(progress)  # nothing that was committed is ever lost
    assert_finishes(captures, disk_folder, whole)


def test_kills_while_a_store_is_created_leave_nothing_in_the_way(
    captures: Captures, undisturbed: Callable[[int], Undisturbed], tmp_path: Path
) -> None:
    whole, drafts = undisturbed(FEW), set()
    for delay in (0, 0.002, 0.005):
        answer = captures(
            whole.arguments, tmp_path, signal=signal.SIGKILL, after_new=f"{STORE}.new-*", delay_seconds=delay
        )
        assert answer["status"] == -signal.SIGKILL
        drafts |= {path.name for path in tmp_path.iterdir()}
    assert any(name.startswith(f"{STORE}.new-") for name in drafts)
    assert_finishes(captures, tmp_path, whole)


@pytest.mark.parametrize("aim", ["creating", "writing", "after commit"])
def test_an_interrupted_capture_says_so_and_continues(
    aim: str, captures: Captures, undisturbed: Callable[[int], Undisturbed], tmp_path: Path
) -> None:
    whole = undisturbed(FEW)
    answer = captures(whole.arguments, tmp_path, signal=signal.SIGINT, after_new=AIMS[aim][0])
    assert answer["status"] == 130
    assert answer["output"] == "capture: interrupted; what is committed is safe, the same command continues\n"
    before = complete(tmp_path)
    assert before < FEW
    if aim == "creating":
        assert not (tmp_path / STORE).exists()  # a draft may be: the next run removes it
    if aim == "after commit":
        assert before >= 1
    assert_finishes(captures, tmp_path, whole)
