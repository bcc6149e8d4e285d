"""How long a capture takes, roughly, estimated before it starts: pure functions of facts, settings and speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from capture.estimates import Workload

__all__ = ["Duration", "duration"]

STARTING_SECONDS = 8.0
"""Imports, the tokenizer, making the store."""

SHARE_OF_MATMUL = 0.75
"""Of the speed of linear layers alone, what a whole forward reaches: 0.7 on a CPU with instructions for bfloat16, 1.1
on one without."""

TOUCHED_BYTES_PER_SECOND = 5e9
"""Weights that come from memory once for each batch: what few tokens a batch are bound by."""

READ_BYTES_PER_SECOND: Mapping[str | None, float] = MappingProxyType({None: 1e9, "mxfp4": 0.15e9, "fp8": 0.3e9})
"""Bytes of a checkpoint that become parameters, by its quantisation, from a disk that keeps up. MXFP4 is unpacked to
four times its size."""

WRITTEN_BYTES_PER_SECOND = 0.6e9
"""Raw bytes that a writer thread compresses and brings to the disk."""

NAMES = {"computing": "computing", "reading": "reading the checkpoint", "writing": "writing the store"}


@dataclass(frozen=True)
class Duration:
    """Seconds by what takes them. Layer by layer the checkpoint is read while layers compute; the store is written
    while the model runs."""

    computing: float
    reading: float
    writing: float
    overlapped: bool

    @property
    def seconds(self) -> float:
        """From the command to its last line."""
        if self.overlapped:
            return STARTING_SECONDS + max(self.computing, self.reading, self.writing)
        return STARTING_SECONDS + self.reading + max(self.computing, self.writing)

    def __str__(self) -> str:
        """``about 4 minutes, roughly; most of it computing``."""
        most = max(NAMES, key=lambda name: float(getattr(self, name)))
        return f"about {_rounded(self.seconds)}, roughly; most of it {NAMES[most]}"


def duration(load: Workload, raw_bytes: int, matmul_flops: float) -> Duration:
    """Of a capture that writes ``raw_bytes``, on a device that does so many operations a second in matrix products."""
    facts, d = load.facts, load.dimensions
    tokens = load.sequences * d.positions
    products = 2 * facts.active_parameters * tokens
    attention = 2 * facts.layers * d.features * d.positions * tokens  # scores and values, half of them masked
    batches = -(-load.sequences // load.batch_size)
    touched = batches * min(facts.parameter_bytes, load.batch_size * d.positions * facts.active_parameters * 2)
    computing = (products + attention) / (SHARE_OF_MATMUL * matmul_flops) + touched / TOUCHED_BYTES_PER_SECOND
    reading = facts.checkpoint_bytes / READ_BYTES_PER_SECOND.get(facts.quantisation, READ_BYTES_PER_SECOND[None])
    return Duration(computing, reading, raw_bytes / WRITTEN_BYTES_PER_SECOND, load.engine != "resident")


def _rounded(seconds: float) -> str:
    """``40 seconds``, ``4 minutes``, ``2 hours``: one digit of it, two from ten on."""
    for unit, size in (("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= 1.5 * size or size == 1:
            count = seconds / size
            whole = round(count, -1) if unit != "hour" and count >= 20 else round(count)
            return f"{whole:.0f} {unit}{'s' * (whole != 1)}"
    raise AssertionError("unreachable")
