"""A kept result is the measured one, and is found for the very same store alone."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze.resources import Resources
from analyze.statistics import cache as caching
from analyze.statistics import measure as measuring
from analyze.statistics import source_digest as digesting
from analyze.statistics.cache import cache_folders
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.moments import Moments
from analyze.statistics.selection import Selection
from analyze.statistics.source_digest import source_digest
from analyze.thresholds.answers import answer
from analyze.thresholds.question import ask
from schemas.run import Run
from schemas.run_writer import RunWriter
from tests.stores import as_stored, write_store

VALUES = {"ln_attn": np.random.default_rng(3).normal(0, 5, (2, 3, 4, 6)).astype(np.float32)}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that has been left alone for a while."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    write_store(tmp_path / "run.zarr", VALUES)
    time.sleep(0.15)
    return tmp_path / "run.zarr"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statistics each pass was made for."""
    made: list[int] = []
    original = measuring._one_pass

    def counted(*arguments: object) -> object:
        made.append(len(arguments[2]))  # type: ignore[arg-type]
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "_one_pass", counted)
    return made


def test_a_second_question_takes_no_pass(store: Path, passes: list[int]) -> None:
    statistics = [Moments(), Exceedances(("6", "2"))]
    first = measure(Run(store), statistics)
    again = measure(Run(store), statistics)
    assert passes == [2]
    assert all(first[name].identical(again[name]) for name in first)
    measure(Run(store), [Moments(), Exceedances(("6", "3"))])
    assert passes == [2, 1]  # other parameters are another statistic
    measure(Run(store), [Moments()], Selection(positions=(1, None)))
    measure(Run(store), [Moments()], cache=False)
    assert passes == [2, 1, 1, 1]


def rewrite_chunk(store: Path) -> None:
    RunWriter(store).write("ln_attn", (1, 2), as_stored(VALUES["ln_attn"][1, 2] + 1, "bfloat16"))


def rewrite_in_place(store: Path) -> None:
    """Other bytes of the same length, and the old time of change."""
    file, other = store / "ln_attn/c.0.0.0.0", store / "ln_attn/c.0.1.0.0"
    before = file.stat()
    other_bytes = other.read_bytes()
    file.write_bytes(other_bytes)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def capture_again(store: Path) -> None:
    shutil.rmtree(store)
    write_store(store, {"ln_attn": VALUES["ln_attn"] + 1})


@pytest.mark.parametrize("change", [rewrite_chunk, rewrite_in_place, capture_again])
def test_a_changed_store_is_measured_anew(store: Path, passes: list[int], change: Callable[[Path], None]) -> None:
    before = measure(Run(store), [Moments()])["moments"]
    change(store)
    time.sleep(0.15)
    after = measure(Run(store), [Moments()])["moments"]
    assert passes == [1, 1]
    assert not before.identical(after)
    assert after.identical(measure(Run(store), [Moments()], cache=False)["moments"])
    assert len(list(next(cache_folders(str(store))).iterdir())) == 1  # what the store was before is forgotten


def test_files_behind_links_are_the_stores_too(store: Path, passes: list[int]) -> None:
    """An array's folder on another disk, and a link that leads round in a circle."""
    shutil.move(store / "ln_attn", store.parent / "disk")
    (store / "ln_attn").symlink_to(store.parent / "disk")
    (store / "round").symlink_to(store)
    before = measure(Run(store), [Moments()])["moments"]
    assert before.identical(measure(Run(store), [Moments()])["moments"])
    assert passes == [1]
    rewrite_in_place(store)
    time.sleep(0.15)
    assert not before.identical(measure(Run(store), [Moments()])["moments"])
    assert passes == [1, 1]


def test_a_store_that_changes_during_the_pass_is_not_kept(
    store: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = measuring._one_pass

    def interrupted(*arguments: object) -> object:
        rewrite_chunk(store)
        return original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "_one_pass", interrupted)
        measure(Run(store), [Moments()])
    time.sleep(0.15)
    measure(Run(store), [Moments()])
    assert passes == [1, 1]


@pytest.mark.parametrize("harm", ["empty", "short", "flipped", "other", "packed", "renamed"])
def test_a_damaged_file_is_as_good_as_none(store: Path, passes: list[int], harm: str) -> None:
    first = measure(Run(store), [Moments()])["moments"]
    (file,) = next(cache_folders(str(store))).iterdir()
    whole = file.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    packed = bytearray(whole)
    packed[whole.index(b"PK\1\2") + 10] ^= 64  # the method of compression that the archive's directory says
    harmed = {"short": whole[:50], "flipped": bytes(data), "packed": bytes(packed), "empty": b"", "other": b"text"}
    file.write_bytes({**harmed, "renamed": whole.replace(b"v1.npy", b"v~.npy")}[harm])
    assert measure(Run(store), [Moments()])["moments"].identical(first)
    assert passes == [1, 1]


def test_beside_a_store_that_cannot_be_written_the_users_cache_is_used(store: Path, passes: list[int]) -> None:
    """What is in the way here is a file; root may write into any folder."""
    beside, home = cache_folders(str(store))
    beside.write_text("in the way")
    measure(Run(store), [Moments()])
    measure(Run(store), [Moments()])
    assert passes == [1]
    assert len(list(home.iterdir())) == 1


def test_the_store_itself_is_left_as_it_is(store: Path) -> None:
    before = sorted(str(path) for path in store.rglob("*"))
    measure(Run(store), [Moments()])
    assert sorted(str(path) for path in store.rglob("*")) == before


@pytest.mark.parametrize(
    "knobs",
    [
        {"engine": "slices"},
        {"engine": "slices", "definition": "llm-int8"},
        {"engine": "slices", "definition": "majority", "details": True},
        {"details": True},
        {"position_coverage": "density"},
        {"position_coverage": "mean", "definition": "majority", "details": True},
    ],
    ids=str,
)
def test_an_answer_from_the_slices_is_given_again_without_a_pass(
    store: Path, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any]
) -> None:
    question = ask("2,5,100", **knobs)
    made: list[str] = []

    def watched(sequences: Iterable[int], label: str, plan: str) -> Iterable[int]:
        made.append(plan)
        return sequences

    first, again, anew = (
        [(asdict(replace(one, info=None, plan=None, listing=None)), list(one.features())) for one in found]  # type: ignore[arg-type]
        for found in (
            answer(store, question, watched),
            answer(store, question, watched),
            answer(store, question, resources=Resources(cache=False)),
        )
    )
    assert repr(first) == repr(again) == repr(anew)
    passes = len(made)
    assert passes >= 1
    assert all("cells of 3 sequences" in plan and "of memory" in plan for plan in made)
    answer(store, ask("2,5,99", **knobs), watched)  # another question
    assert len(made) > passes
    made.clear()
    rewrite_chunk(store)
    time.sleep(0.15)
    answer(store, question, watched)  # another store
    assert made


COUNTING = """
from typing import ClassVar

import numpy as np

from analyze.statistics.statistic import Statistic


class Counted(Statistic):
    name: ClassVar[str] = "counted"
    keeps: ClassVar = frozenset({"site"})

    @property
    def definition(self):
        return {"name": self.name, "version": 1}

    def chunk(self, piece):
        return {"n": np.array((piece.values > LEAST).sum())}

    def combine(self, first, second):
        return {"n": first["n"] + second["n"]}

    def finalize(self, partials, context):
        return context.dataset({"n": ((), sum(int(held["n"]) for held in partials.values()))})


LEAST = 1
"""


def test_changed_code_finds_nothing_of_the_old(
    store: Path, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statistic of the same name, version and parameters, of which one number elsewhere in its module changed."""
    file = tmp_path / "counting_of_this_test.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def counted(text: str, age: float = 3600) -> int:
        file.write_text(text)
        os.utime(file, (time.time() - age, time.time() - age))
        sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()
        return int(measure(Run(store), [importlib.import_module(file.stem).Counted()])["counted"].n)

    first = counted(COUNTING)
    assert counted(COUNTING) == first
    assert passes == [1]
    other = counted(COUNTING.replace("LEAST = 1", "LEAST = 3"))
    assert other < first
    assert passes == [1, 1]
    assert counted(COUNTING) == first
    assert passes == [1, 1]
    counted(COUNTING, age=0)  # newer than what this process read: it may not be what ran
    assert passes == [1, 1, 1]


def test_the_code_of_all_numbers_is_in_the_key(store: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    read = {os.path.relpath(file, digesting._ROOT) for file in digesting._sources()}
    assert {"analyze/statistics/peak_kernel.py", "analyze/chance/null.py", "schemas/bits.py"} <= read
    assert not any(file.startswith(("analyze/figures", "analyze/tables")) for file in read)
    measure(Run(store), [Moments()])
    monkeypatch.setattr(caching, "source_digest", lambda kind=None: "other code")
    measure(Run(store), [Moments()])
    assert len(list(next(cache_folders(str(store))).iterdir())) == 1  # what the code was before is forgotten
    monkeypatch.setattr(caching, "source_digest", lambda kind=None: None)
    measure(Run(store), [Moments()])
    assert passes == [1, 1, 1]


def test_a_package_without_its_source_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digesting, "_ROOT", tmp_path)
    digesting._own_digest.cache_clear()
    try:
        assert source_digest() is None
        (tmp_path / "schemas").mkdir()
        (tmp_path / "schemas/a.py").write_text("LEAST = 1")
        assert source_digest() is None
        digesting._own_digest.cache_clear()
        os.utime(tmp_path / "schemas/a.py", (1, 1))
        assert source_digest() is not None
    finally:
        digesting._own_digest.cache_clear()
