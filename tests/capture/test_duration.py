"""Durations from facts and speeds: what dominates, what runs side by side, and words for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from capture.duration import STARTING_SECONDS, Duration, duration
from capture.estimates import Workload
from capture.speed import matmul_flops
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
