"""What a capture takes, estimated before it starts: bytes of its store, and memory.

Pure functions of the model's facts and the settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from capture.compression import kind_of
from capture.model_facts import ModelFacts
from schemas.bits import Encoding
from schemas.codecs import PEAKS
from schemas.layout import RESIDUAL, ArraySpec, Dimensions

__all__ = ["LOSS_BLOCK_BYTES", "QUEUE_BYTES", "Memory", "Workload", "loss_block_positions", "memory", "store_bytes"]

NORMS = "norms"

EXPECTED_RATIO = {
    "bfloat16": {NORMS: 0.74, RESIDUAL: 0.79, PEAKS: 0.62},
    "float16": {NORMS: 0.92, RESIDUAL: 0.93, PEAKS: 0.80},
    "float32": {NORMS: 0.87, RESIDUAL: 0.93, PEAKS: 0.81},
}
"""Compressed over raw size of norm outputs (any other site), the residual and peaks under their default codecs:
SmolLM2-135M's, rounded up (docs/decisions/037-codec-per-site.md)."""

LOSS_BLOCK_BYTES = 64 * 2**20
"""Float32 logits held at once: the loss is computed in blocks of positions of at most this size."""

BASE_BYTES = 700 * 2**20
"""Resident memory of Python, torch and transformers before a model is loaded."""

QUEUE_BYTES = 256 * 2**20
"""Slices that may wait for the writers; the model waits beyond that."""


@dataclass(frozen=True)
class Workload:
    """What decides how much memory a capture takes.

    ``sites`` is how many have arrays of their own, ``sequences`` how many this process fills, ``argument_bytes`` what
    layers are given for one sequence (``capture.coupling``).
    """

    facts: ModelFacts
    engine: str
    dimensions: Dimensions
    encoding: Encoding
    batch_size: int
    sequences: int
    sites: int
    argument_bytes: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a capture, by what holds them."""

    weights: int
    """All of them; or what is outside the layers, two layers, and a third while the experts of one are being stacked.
    """
    work: int
    """Python and its libraries, one batch's activations, position peaks, a block of logits, waiting slices."""
    waiting: int
    """Batches that wait between layers: hidden states, position peaks, and what layers are given beside: that of one
    batch where equal arguments are shared, of all where each is in a forward of its own, which may also keep keys and
    values."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.work + self.waiting


def store_bytes(arrays: Iterable[ArraySpec], encoding: Encoding) -> int:
    """Bytes of these arrays on disk, with slices kept whole."""
    ratios = EXPECTED_RATIO[encoding.name]

    def ratio(array: ArraySpec) -> float:
        kind = kind_of(array)
        return 1 if kind is None else ratios.get(kind, ratios[NORMS])

    return int(sum(array.raw_bytes * ratio(array) for array in arrays))


def loss_block_positions(batch_size: int, positions: int, vocabulary_size: int) -> int:
    """Positions whose logits are computed at once."""
    return max(1, min(positions, LOSS_BLOCK_BYTES // (batch_size * vocabulary_size * 4)))


def memory(workload: Workload) -> Memory:
    """Peak memory of a capture on one device."""
    return Memory(_weights(workload), _work(workload), _waiting(workload))


def _weights(load: Workload) -> int:
    if load.engine == "resident":
        return load.facts.parameter_bytes
    layers = 3 if load.facts.quantisation == "fp8" else 2  # float8 is not dequantised in place
    return min(load.facts.parameter_bytes, load.facts.outside_layers_bytes + layers * load.facts.largest_layer_bytes)


def _work(load: Workload) -> int:
    facts, d = load.facts, load.dimensions
    hidden = load.batch_size * d.positions * d.features * load.encoding.itemsize
    block = loss_block_positions(load.batch_size, d.positions, facts.vocabulary_size)
    logits = 3 * load.batch_size * block * facts.vocabulary_size * 4
    scores = 0
    if facts.attention_implementation == "eager":
        scores = 3 * load.batch_size * d.positions**2 * max(1, d.features // 64) * 4
    queue = min(QUEUE_BYTES, 2 * d.layers * load.sites * hidden)
    return BASE_BYTES + 16 * hidden + 2 * load.sites * hidden + logits + scores + queue


def _waiting(load: Workload) -> int:
    if load.engine == "resident":
        return 0
    d = load.dimensions
    each = d.positions * d.features * load.encoding.itemsize
    waiting = load.sequences * each * (1 + load.sites)
    if load.engine == "streamed":
        return waiting + load.batch_size * load.argument_bytes
    return waiting + load.sequences * (each + load.argument_bytes)
