"""Durations from facts and speeds: what dominates, what runs side by side, and words for it."""

from __future__ import annotations

import itertools
import time
import timeit
from dataclasses import replace

import pytest
import torch

from capture.duration import STARTING_SECONDS, Duration, duration
from capture.estimates import Workload
from capture.speed import matmul_flops, slower_than_float32
from schemas import ENCODINGS
from schemas.layout import Dimensions
from tests.capture.made_up import FACTS

LOAD = Workload(
    replace(FACTS, active_parameters=10**9, parameter_bytes=2 * 10**9, checkpoint_bytes=2 * 10**9),
    "streamed",
    Dimensions(2, 4, 1000, 8),
    ENCODINGS["bfloat16"],
    batch_size=2,
    sequences=4,
    sites=2,
)


def test_time_goes_with_tokens_and_against_speed() -> None:
    slow, fast = duration(LOAD, 0, 1e10), duration(LOAD, 0, 1e12)
    assert slow.computing > 2 * 10**9 * 4000 / 1e10  # two operations a parameter and token, at less than full speed
    assert slow.computing / fast.computing > 10
    half = duration(replace(LOAD, sequences=2), 0, 1e10)
    assert half.computing == pytest.approx(slow.computing / 2)
    assert half.reading == slow.reading  # the checkpoint is read once


def test_layer_by_layer_reading_and_computing_go_side_by_side() -> None:
    streamed, resident = (Duration(100, 60, 10, overlapped) for overlapped in (True, False))
    assert streamed.seconds == STARTING_SECONDS + 100
    assert resident.seconds == STARTING_SECONDS + 160


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (Duration(30, 1, 1, True), "about 40 seconds, roughly; most of it computing"),
        (Duration(1, 600, 1, True), "about 10 minutes, roughly; most of it reading the checkpoint"),
        (Duration(1, 1, 7200, True), "about 2 hours, roughly; most of it writing the store"),
        (Duration(100, 0, 0, True), "about 2 minutes, roughly; most of it computing"),
    ],
)
def test_in_words(taken: Duration, words: str) -> None:
    assert str(taken) == words


def test_a_device_multiplies_at_some_speed() -> None:
    assert 1e8 < matmul_flops(torch.device("cpu"), torch.float32, seconds=0.01) < 1e15


def test_products_that_other_programs_hold_up_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, linear = itertools.count(), torch.nn.functional.linear

    def held_up(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1 * (next(calls) < 2))
        return linear(hidden, weights)

    monkeypatch.setattr(torch.nn.functional, "linear", held_up)
    assert matmul_flops(torch.device("cpu"), torch.float32) > 2 * 32 * 1024**2 / 0.1


def test_a_dtype_that_is_slow_here_is_told() -> None:
    cpu = torch.device("cpu")
    assert slower_than_float32(cpu, torch.float32) is None
    hidden, weights = (torch.ones(256, 1024, dtype=torch.bfloat16) for _ in range(2))
    taken = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, w = hidden.to(dtype), weights.to(dtype)
        rounds = timeit.repeat(lambda x=x, w=w: torch.nn.functional.linear(x, w), number=1, repeat=5)  # type: ignore[misc]
        taken[dtype] = min(rounds)
    measured = taken[torch.bfloat16] / taken[torch.float32]
    told = slower_than_float32(cpu, torch.bfloat16)
    if measured > 8:
        assert told is not None
    if measured < 0.5:
        assert told is None
