"""A power failure at any flush: the same command goes on, loses one layer at most, and ends with the same bits."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas import Run
from tests.capture.captures import contents
from tests.capture.forked_captures import Captures
from tests.capture.power_failure import STATUS

STORE, SEQUENCES, LAYERS = "run.zarr", 3, 4

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are looked up by their descriptors in /proc")


@pytest.mark.parametrize(
    ("engine", "failures"),
    [("streamed", 5), *(pytest.param(engine, 24, marks=pytest.mark.slow) for engine in ("resident", "streamed"))],
)
def test_power_fails(
    engine: str, failures: int, captures: Captures, checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    words = ["--model", checkpoint("qwen3_moe"), "--store", STORE, "--text", text, "--device", "cpu", "-q"]
    words += ["--sequences", SEQUENCES, "--length", 8, "--batch-size", 2, "--engine", engine]
    arguments = list(map(str, words))
    whole = tmp_path / "whole"
    whole.mkdir()
    never = {"power_fails_at": 2**30, "after": "", "names_kept": False}
    assert captures(arguments, whole, **never)["status"] == 0
    flushes = int((whole / "flushes").read_text())
    assert flushes > failures
    cells, missed = [], 0
    for failure in range(1, failures + 1):
        folder, after = tmp_path / f"{failure}", tmp_path / f"{failure}-after"
        folder.mkdir()
        moment = flushes * failure // (failures + 1)  # their number differs a little by how commits meet
        cut = {"power_fails_at": moment, "after": str(after), "names_kept": failure % 2 == 1}
        answer = captures(arguments, folder, **cut)
        if answer["status"] == 0:
            missed += 1  # it took fewer
            continue
        assert answer["status"] == STATUS, answer["output"]
        if (after / STORE / "zarr.json").exists():
            cells.append(int(Run(after / STORE).committed().sum()))
        answer = captures(arguments, after)
        assert answer["status"] == 0, (failure, answer["output"])
        found, expected = contents(after / STORE), contents(whole / STORE)
        assert [name for name in expected if found.get(name) != expected[name]] == [], failure
        assert found.keys() == expected.keys()
    assert len(set(cells)) > 1
    assert missed <= failures // 8


@pytest.mark.slow
def test_power_fails_in_one_engine_and_then_in_another(
    captures: Captures, checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    """What the first keeps to go on from vouches for chunks that the second writes again."""
    words = ["--model", checkpoint("qwen3_moe"), "--store", STORE, "--text", text, "--device", "cpu", "-q"]
    words += ["--sequences", 4, "--length", 8, "--batch-size", 2]

    def capture(engine: str, folder: Path, share: float | None = None) -> Path:
        """The store after the power failed, at that share of all flushes, or after the end."""
        arguments = [*map(str, words), "--engine", engine]
        count, after = folder.with_name(f"{folder.name}-count"), folder.with_name(f"{folder.name}-after")
        if share is None:
            answer = captures(arguments, folder)
            assert answer["status"] == 0, answer["output"]
            return folder / STORE
        shutil.copytree(folder, count)
        never = {"power_fails_at": 2**30, "after": "", "names_kept": True}
        assert captures(arguments, count, **never)["status"] == 0
        moment = int(share * int((count / "flushes").read_text()))
        answer = captures(arguments, folder, power_fails_at=moment, after=str(after), names_kept=True)
        assert answer["status"] in (STATUS, 0), answer["output"]
        return (after if answer["status"] else folder) / STORE

    for name in ("whole", "first"):
        (tmp_path / name).mkdir()
    expected = contents(capture("streamed", tmp_path / "whole"))
    first = capture("streamed", tmp_path / "first", 0.7).parent
    for number in range(1, 13):
        second = shutil.copytree(first, tmp_path / f"{number}")
        left = capture("resident", second, number / 13).parent
        found = contents(capture("streamed", left))
        assert [name for name in expected if found.get(name) != expected[name]] == [], number
