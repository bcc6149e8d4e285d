"""How a pass is run within a limit of memory, decided before anything is read: pure integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analyze.memory import bytes_text, limit_text
from analyze.quantities import counted
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Reduction
from analyze.statistics.work import Block
from schemas.errors import InputError
from schemas.run import Run

__all__ = ["PassPlan", "plan_pass"]

_BLOCK_BYTES = 256 * 2**20
"""Decoded bytes of the cells that one task reads, one after another. Fixed: what is combined first must not depend on
the machine."""
_WAVE_SEQUENCES = 16
_SLACK = 1.15
"""Of what the heap keeps, and Python's own."""


@dataclass(frozen=True)
class PassPlan:
    """``threads`` that read at once, ``wave`` sequences whose tasks are given out together, ``block`` cells of a task.

    Bytes: what the process holds before, what each thread needs, what a sequence of a wave does, and the results.
    """

    chosen: Chosen
    threads: int
    wave: int
    block: int
    base_bytes: int
    thread_bytes: int
    sequence_bytes: int
    result_bytes: int

    @property
    def peak_bytes(self) -> int:
        """What the process will hold at most."""
        return _peak(
            self.base_bytes, self.thread_bytes * self.threads + self.sequence_bytes * self.wave + self.result_bytes
        )

    def blocks(self, sequence: int) -> list[Block]:
        """The tasks of one sequence, in the order in which their findings are combined."""
        cells = [
            (site, array, layer)
            for site, array in zip(self.chosen.sites, self.chosen.arrays, strict=True)
            for layer in self.chosen.layers
        ]
        return [Block(sequence, tuple(cells[i : i + self.block])) for i in range(0, len(cells), self.block)]

    def __str__(self) -> str:
        """One line that says what is about to be done."""
        cells, sequences = len(self.chosen.sites) * len(self.chosen.layers), len(self.chosen.sequences)
        return (
            f"{counted(cells, 'cell')} of {counted(sequences, 'sequence')}, "
            f"{self.threads} at once, in at most {bytes_text(self.peak_bytes)} of memory"
        )


def _peak(base: int, more: int) -> int:
    return base + math.ceil(more * _SLACK)


def plan_pass(
    run: Run,
    chosen: Chosen,
    statistics: Sequence[Reduction],
    *,
    memory_limit: int,
    threads: int,
    base_bytes: int,
    streamed: bool = False,
    apart: bool = False,
) -> PassPlan:
    """The most threads, and the longest waves, that ``memory_limit`` bytes allow.

    ``streamed``: what is kept of each sequence is used at once and not held. ``apart``: what a cell gives is held apart
    until all of it could be read, and then combined.

    Raises InputError where it is less than one chunk takes, saying what is enough.
    """
    features, itemsize = run.dimensions.features, run.encoding.itemsize
    cells = len(chosen.sites) * len(chosen.layers)
    chunk = max(run.array(array).chunks[2] for array in chosen.arrays)
    spanned = -(-chosen.stop // chunk) - chosen.start // chunk
    rows = chunk if all(statistic.in_parts for statistic in statistics) else chunk * spanned
    values = rows * features
    block = max(1, min(cells, _BLOCK_BYTES // max(1, chunk * spanned * features * itemsize)))
    block = -(-cells // -(-cells // block))  # as many blocks, of one size: a long and a short one keep a thread waiting
    # Read: decoded, its compressed bytes, and a second array beside it where one is asked for; then its rows picked.
    beside = any("residual" in statistic.needs for statistic in statistics)
    reading = values * itemsize * (2 + (2 if beside else 0) + (1 if chosen.tokens else 0))
    working = max((statistic.bytes_per_value for statistic in statistics), default=0) * values
    kept = {True: 0, False: 0}
    held_apart = 0
    for statistic in statistics:
        each = statistic.partial_bytes(chunk * spanned, features)
        held_apart += 2 * each if apart else 0
        groups = 1 if not {"site", "layer"} & statistic.keeps else block
        kept["sequence" in statistic.keeps] += each * groups
    blocks = -(-cells // block)
    thread_bytes = reading + working + kept[True] + kept[False] + held_apart
    sequence_bytes = (kept[True] + kept[False]) * blocks + kept[True]
    result_bytes = 2 * blocks * kept[False] + 2 * kept[True] * (0 if streamed else len(chosen.sequences))
    fixed = sequence_bytes + result_bytes
    room = int((memory_limit - base_bytes) / _SLACK)
    if room < thread_bytes + fixed:
        least = thread_bytes + fixed
        raise InputError(
            f"--memory-limit {limit_text(memory_limit)} is too small: one chunk of {run.path} at a time takes "
            f"{bytes_text(_peak(0, least))} for these statistics, beside the {bytes_text(base_bytes)} that Python and "
            f"its libraries take. Give at least {bytes_text(_peak(base_bytes, least))}"
        )
    threads = max(1, min(threads, (room - fixed) // max(1, thread_bytes)))
    left = room - result_bytes - threads * thread_bytes
    wave = max(1, min(_WAVE_SEQUENCES, len(chosen.sequences), left // max(1, sequence_bytes)))
    return PassPlan(chosen, threads, wave, block, base_bytes, thread_bytes, sequence_bytes, result_bytes)
