"""A capture that goes layer by layer, killed at any moment in it, ends in the bits of one that nobody disturbed."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from schemas import Run
from tests.capture.captures import contents
from tests.capture.forked_captures import Captures

SEQUENCES, BATCH_SIZE = 5, 2
STORE = "run.zarr"
KILLS, MOST_KILLS = 8, 60

AIMS = {
    # where a kill is aimed: the path that appears or is replaced, and the longest delay after that in seconds
    "a layer's data": (f"{STORE}/ln_mlp/c.*", 0.02),
    "a checkpoint being written": (f"{STORE}/.resume/*.partial", 0.0005),
    "before a commit": (f"{STORE}/.resume/*.safetensors", 0.0005),
    "after a commit": (f"{STORE}/committed/c.*", 0.004),
    "any time": (None, 0.5),
}
STAGES = {"amid a layer", "amid a checkpoint", "between checkpoint and commit"}


def checkpoints(store: Path) -> dict[range, int]:
    """Batch -> layers that it has been through, of the files kept beside a store."""
    kept = {}
    for file in Path(store, ".resume").glob("*.safetensors"):
        start, stop = map(int, re.match(r"(\d+)-(\d+)\.", file.name).groups())  # type: ignore[union-attr]
        with safe_open(file, framework="np") as stream:
            kept[range(start, stop)] = int(stream.metadata()["done"])
    return kept


def stage(store: Path, since: float) -> str:
    """Where a kill landed, by what lies in the store."""
    kept, committed = checkpoints(store), Run(store).committed()
    if any(not committed[:done, batch.start : batch.stop].all() for batch, done in kept.items()):
        return "between checkpoint and commit"
    if any(file.stat().st_mtime >= since for file in Path(store, ".resume").glob("*.partial")):
        return "amid a checkpoint"
    if not kept:
        return "before the first checkpoint"
    return "amid a layer"


def assert_finished(folder: Path, whole: dict[str, bytes]) -> None:
    assert [path.name for path in folder.iterdir()] == [STORE]
    run = Run(folder / STORE)
    assert run.committed().all()
    finished = contents(folder / STORE)
    assert finished.keys() == whole.keys()  # nothing of .resume is left
    assert [name for name in finished if finished[name] != whole[name]] == []
    for name in run.group.array_keys():
        run.read(name)  # and every checksum holds


@pytest.mark.slow
def test_killed_again_and_again(
    captures: Captures, checkpoint: Callable[[str], Path], text: Path, disk_folder: Path
) -> None:
    flags: dict[str, Any] = {"--model": checkpoint("olmoe"), "--store": STORE, "--text": text, "--device": "cpu"}
    flags |= {"--sequences": SEQUENCES, "--length": 8, "--batch-size": BATCH_SIZE, "--engine": "streamed"}
    arguments = [*(str(part) for flag in flags.items() for part in flag), "-q"]
    undisturbed, folder = disk_folder / "undisturbed", disk_folder / "killed"
    undisturbed.mkdir()
    folder.mkdir()
    assert captures(arguments, undisturbed)["status"] == 0
    whole = contents(undisturbed / STORE)

    choose, landed, kills, cells = random.Random(0), Counter[str](), 0, 0
    while kills < KILLS or not landed.keys() >= STAGES:
        assert kills < MOST_KILLS, f"no kill hit {STAGES - set(landed)}: {landed}"
        pattern, longest = AIMS[choose.choice([*AIMS])]
        since = time.time() - 0.01  # a file system's clock ticks more coarsely
        delay = choose.uniform(0, longest)
        answer = captures(arguments, folder, signal=signal.SIGKILL, after_new=pattern, delay_seconds=delay)
        store = folder / STORE
        if answer["status"] == 0:  # it ended before its moment: begin another
            assert_finished(folder, whole)
            shutil.rmtree(store)
            cells = 0
            continue
        assert answer["status"] == -signal.SIGKILL, answer["output"]
        kills += 1
        if store.exists():
            landed[stage(store, since)] += 1
            assert Run(store).committed().sum() >= cells  # nothing that was committed is ever lost
            cells = int(Run(store).committed().sum())
    assert captures(arguments, folder)["status"] == 0
    assert_finished(folder, whole)
