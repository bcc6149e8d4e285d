"""Batches keep their company when resumed, and the largest that is chosen is the largest that fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.batching import LARGEST, batches, with_largest_batch
from capture.part import Part
from capture.plan import choose_engine
from schemas import Run
from tests.capture.captures import capture
from tests.capture.made_up import FACTS
from tests.capture.test_plan import plan_of


@st.composite
def resumptions(draw: Any) -> tuple[list[int], int, int]:
    sequences = draw(st.integers(1, 40))
    missing = draw(st.sets(st.integers(0, sequences - 1)))
    return sorted(missing), sequences, draw(st.integers(1, 45))


@given(resumptions())
def test_a_resumed_batch_is_one_of_an_uninterrupted_run(case: tuple[list[int], int, int]) -> None:
    missing, sequences, batch_size = case
    whole = [
        [at for at in range(start, start + batch_size) if at < sequences] for start in range(0, sequences, batch_size)
    ]
    resumed = [list(batch) for batch in batches(missing, sequences, batch_size)]
    assert [list(batch) for batch in batches(range(sequences), sequences, batch_size)] == whole
    assert resumed == [batch for batch in whole if set(batch) & set(missing)]


@given(
    sequences=st.integers(1, 200),
    ends=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    engine=st.sampled_from(["resident", "streamed"]),
    room=st.integers(0, 10**7),
)
def test_the_largest_batch_that_fits(sequences: int, ends: tuple[int, int], engine: str, room: int) -> None:
    start, stop = sorted(min(end, sequences) for end in ends)
    part = Part(start, stop, sequences) if start < stop else Part(0, sequences, sequences)
    # So many tokens that a sequence's work is tens of kilobytes.
    plan = choose_engine(plan_of(FACTS, length=64, part=part), engine, None)
    available = plan.memory.needed + room
    chosen = with_largest_batch(plan, available)
    assert chosen.engine == engine
    assert chosen == replace(plan, batch_size=chosen.batch_size)

    def may_be(size: int) -> bool:
        whole_batches = part.start % size == 0 and (part.stop == sequences or part.stop % size == 0)
        return (
            whole_batches and size <= len(part.sequences) and replace(plan, batch_size=size).memory.needed <= available
        )

    assert may_be(chosen.batch_size)
    assert not any(may_be(2**power) for power in range(7) if chosen.batch_size < 2**power <= LARGEST)


def test_without_room_or_knowledge_the_batch_stays() -> None:
    plan = plan_of(sequences=8, length=64)
    assert with_largest_batch(plan, None) is plan
    assert with_largest_batch(plan, plan.memory.needed - 1) is plan
    assert with_largest_batch(plan, 10**12).batch_size == 8


def test_the_command_takes_as_many_as_fit_and_a_later_one_as_many_as_the_store(
    checkpoint: Any, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = checkpoint("llama"), tmp_path / "run.zarr"
    options = ["--sequences", "5", "--length", "16", "--batch-size", "auto"]
    assert capture(folder, store, text, *options, "--dry-run") == 0
    assert "batches     2 of 4" in capsys.readouterr().out
    assert capture(folder, store, text, *options) == 0
    assert Run(store).info.software.batch_size == 4
    assert capture(folder, store, text, *options) == 0  # which finds it complete
    assert capture(folder, store, text, *options[:-1], "2") == 2
    with pytest.raises(SystemExit) as leaving:
        capture(folder, tmp_path / "other.zarr", text, *options[:-1], "many")
    assert leaving.value.code == 2
    assert "write 1, 4 or auto" in capsys.readouterr().err
    assert not (tmp_path / "other.zarr").exists()
