"""What a capture takes, estimated before it starts: bytes of its store, and memory at its peak.

Pure functions of the model's facts and the settings. The constants are measured; docs/decisions/042 says how.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from capture.compression import kind_of
from capture.heap import SMALL_BYTES
from capture.model_facts import ModelFacts
from schemas.bits import Encoding
from schemas.codecs import PEAKS
from schemas.layout import RESIDUAL, ArraySpec, Dimensions

__all__ = ["LOSS_BLOCK_BYTES", "QUEUE_BYTES", "Memory", "Workload", "loss_block_positions", "memory", "store_bytes"]

SLICES: Mapping[str, Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "lz4-1-bitshuffle": {"bfloat16": (0.75, 0.84), "float16": (0.93, 1.0), "float32": (0.88, 0.93)},
        "lz4-1-shuffle": {"bfloat16": (0.9, 0.9), "float16": (1.0, 1.0), "float32": (0.96, 0.96)},
        "lz4-5-bitshuffle": {"bfloat16": (0.74, 0.83), "float16": (0.92, 1.0), "float32": (0.87, 0.92)},
        "lz4-5-shuffle": {"bfloat16": (0.9, 0.91), "float16": (1.0, 1.0), "float32": (0.95, 0.96)},
        "lz4-9-bitshuffle": {"bfloat16": (0.73, 0.82), "float16": (0.92, 0.99), "float32": (0.87, 0.92)},
        "lz4-9-shuffle": {"bfloat16": (0.85, 0.86), "float16": (1.0, 1.0), "float32": (0.93, 0.93)},
        "zstd-1-bitshuffle": {"bfloat16": (0.74, 0.91), "float16": (0.93, 0.99), "float32": (0.88, 0.94)},
        "zstd-1-shuffle": {"bfloat16": (0.79, 0.79), "float16": (0.93, 0.93), "float32": (0.93, 0.93)},
        "zstd-3-bitshuffle": {"bfloat16": (0.73, 0.9), "float16": (0.92, 0.99), "float32": (0.87, 0.93)},
        "zstd-3-shuffle": {"bfloat16": (0.74, 0.74), "float16": (0.92, 0.93), "float32": (0.91, 0.91)},
        "zstd-5-bitshuffle": {"bfloat16": (0.71, 0.78), "float16": (0.91, 0.98), "float32": (0.86, 0.94)},
        "zstd-5-shuffle": {"bfloat16": (0.7, 0.7), "float16": (0.86, 0.86), "float32": (0.87, 0.88)},
    }
)
"""Compressed over raw bytes of slices by codec and encoding, of norm outputs and of the residual: SmolLM2-135M's on
real text (docs/decisions/037-codec-per-site.md)."""

RATIOS: Mapping[tuple[str, str], float] = MappingProxyType(
    {
        ("layer_peak", "bfloat16"): 0.66,
        ("layer_peak", "float16"): 0.84,
        ("layer_peak", "float32"): 0.83,
        ("position_peak", "bfloat16"): 0.60,
        ("position_peak", "float16"): 0.79,
        ("position_peak", "float32"): 0.80,
        ("_rms", "float32"): 0.75,
        ("_mean", "float32"): 0.75,
        ("_std", "float32"): 0.75,
        ("gain", "float32"): 0.35,
        ("expert_id", "uint16"): 0.32,
        ("expert_weight", "float32"): 0.65,
    }
)
"""The same of what else is in a store, by what it is and its dtype, under its default codec: others differ by less than
15% in peaks. Experts' are of random routers. What is not listed is taken to stay as it is."""

CHUNK_OVERHEAD_BYTES = 20
"""Blosc's header and a checksum."""
LEAST_COMPRESSED_BYTES = 128
"""Blosc leaves smaller chunks as they are."""
ARRAY_METADATA_BYTES = 2080
"""An array's zarr.json, and its copy in the group's."""
RUN_METADATA_BYTES = 3600
"""What a run says of itself in the group's zarr.json; and a module's name for each site and layer."""
MODULE_NAME_BYTES = 90

LOSS_BLOCK_BYTES = 64 * 2**20
"""Float32 logits held at once: the loss is computed in blocks of positions of at most this size."""

QUEUE_BYTES = 256 * 2**20
"""Slices that may wait for the writers; the model waits beyond that."""

BASE_BYTES = 380 * 2**20
"""Python, torch and transformers: 377 to 384 MiB, on two kinds of CPU."""
TOKEN_BYTES = 1100
"""Of a tokenizer, for each of its tokens: 51 MiB for 49,152."""
DATASETS_BYTES = 90 * 2**20
"""The datasets library, which texts of the Hub are read with."""
EXPERTS_BYTES = 120 * 2**20
"""What oneDNN and the heap keep, at most, of matrix products of ever other sizes, of tokens that met an expert."""
LEAST_EXPERTS_BYTES = 40 * 2**20
"""The same where the products are small: code that is loaded and made for them, 45 to 65 MiB in tiny mixtures on a CPU
with AVX-512; 1 to 5 MiB on one without."""
EXPERTS_KEPT = 8
"""Of what one layer's experts take and give for a batch, how many times as much is kept beside that, up to the most."""

KEPT_OF_A_LAYER, MOST_KEPT = 2, 20
"""Of a hidden state and of the widest activation, those that lie in the heap: so many for each layer, and at most.
15 in a model of 8 layers (batches of 2,048 tokens), 15 to 30 in SmolLM2-135M's 30."""
KEPT_LAYER_BY_LAYER = 3
"""The same where layers run one by one."""
MOST_SPLINTERS = 5
"""Halves of the blocks of logits that later batches add: none where there are two blocks, 2 with four, 5 with seven."""
HIDDEN_OF_A_LAYER, HIDDEN_OF_AN_ACCELERATORS = 5, 3
"""Hidden states that a layer holds at once on a CPU, and on an accelerator, where they are the residual and what goes
into and comes out of a norm or a block."""

ACCELERATOR_BYTES = 32 * 2**20
"""On an accelerator: the matrix library's work space, an H100's."""
LOADED_APART: Mapping[str | None, float] = MappingProxyType({None: 0.67, "mxfp4": 2.5, "fp8": 2.5})
"""Of the largest layer, what loading a whole model takes on an accelerator beside the weights that are there: experts
before they are one tensor, and what MXFP4 is unpacked with (float8: not measured)."""
SPARE_BYTES = 256 * 2**20
"""Kept by an accelerator's allocator whatever the work."""
CELLS_ON_THE_WAY = 2
"""Copies of hidden states on an accelerator that its host has not yet."""
ACCELERATOR_BASE_BYTES = 1550 * 2**20
"""Of its host: Python and its libraries with CUDA's, which BASE_BYTES is without."""

FLOAT32 = 4
SCORE_TENSORS = 3
"""Held at once by eager attention: products, masked products, weights."""


@dataclass(frozen=True)
class Workload:
    """What decides how much memory a capture takes.

    ``sites`` is how many have arrays of their own, ``sequences`` how many this process fills, ``argument_bytes`` what
    layers are given for one sequence (``capture.coupling``), ``datasets`` whether the text is read with that library,
    ``slices`` whether they are kept, ``avx512`` whether the CPU has such instructions, ``accelerated`` whether the
    model runs apart from the host's memory, ``beside`` whether slices are written while it runs.
    """

    facts: ModelFacts
    engine: str
    dimensions: Dimensions
    encoding: Encoding
    batch_size: int
    sequences: int
    sites: int
    argument_bytes: int = 0
    datasets: bool = False
    slices: bool = True
    avx512: bool = True
    accelerated: bool = False
    beside: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a capture, by what holds them, where the model runs."""

    weights: int
    """All of them; or what is outside the layers and two buffers of the largest layer's size, with float8 one more."""
    work: int
    """Python and its libraries, one batch's activations or a block of its logits, position peaks, waiting slices."""
    waiting: int
    """Batches that wait between layers: hidden states, position peaks, and what layers are given beside: that of one
    batch where equal arguments are shared, of all where each is in a forward of its own, which may also keep keys and
    values."""
    mapped: int = 0
    """Pages of the checkpoint's files beside the weights that were made of them: they count as this process's memory,
    and the system takes them back where it needs them."""
    host: int = 0
    """Of the host, where the model runs on an accelerator: libraries, a layer that is read, slices to be written."""
    spare: int = 0
    """What an accelerator's allocator keeps of freed memory, in pieces too small for what is asked for."""

    @property
    def total(self) -> int:
        """All of it: what the system reports, or an accelerator's allocator as given out."""
        return self.weights + self.work + self.waiting + self.mapped

    @property
    def needed(self) -> int:
        """What must be there for the capture to run."""
        return self.weights + self.work + self.waiting + self.spare


def store_bytes(arrays: Iterable[ArraySpec]) -> int:
    """Bytes of the files of a store of these arrays, with slices kept whole."""
    arrays = list(arrays)
    modules = MODULE_NAME_BYTES * sum(array.shape[0] for array in arrays if array.name.endswith("_layer_peak"))
    return RUN_METADATA_BYTES + modules + sum(map(_array_bytes, arrays))


def _array_bytes(array: ArraySpec) -> int:
    raw = math.prod(array.chunks) * array.dtype.itemsize
    dtype = str(dict(array.attributes).get("bits", array.dtype.name))
    if kind_of(array) in (None, PEAKS):
        ratio = next((ratio for (kind, of), ratio in RATIOS.items() if of == dtype and array.name.endswith(kind)), 1.0)
    else:
        ratio = SLICES[array.codec][dtype][array.name == RESIDUAL]
    chunk = raw if raw < LEAST_COMPRESSED_BYTES else math.ceil(raw * ratio)
    return ARRAY_METADATA_BYTES + array.chunk_count * (chunk + CHUNK_OVERHEAD_BYTES)


def loss_block_positions(batch_size: int, positions: int, vocabulary_size: int) -> int:
    """Positions whose logits are computed at once."""
    return max(1, min(positions, LOSS_BLOCK_BYTES // (batch_size * vocabulary_size * FLOAT32)))


def memory(workload: Workload) -> Memory:
    """Peak memory of a capture on one device.

    Where all weights are cast, the checkpoint's pages are gone before the first batch: the larger of both counts.
    """
    facts = workload.facts
    work, waiting = _work(workload), _waiting(workload)
    if workload.engine != "resident":
        layers = 3 if facts.quantisation == "fp8" else 2  # float8 is not dequantised in place
        weights = facts.outside_layers_bytes + layers * facts.largest_layer_bytes
        return Memory(
            min(facts.parameter_bytes, weights), work, waiting, host=_host(workload), spare=_spare(workload, work)
        )
    if workload.accelerated:
        loading = (
            int(LOADED_APART.get(facts.quantisation, 1) * facts.largest_layer_bytes) if facts.converted_bytes else 0
        )
        work = max(work, loading)
        return Memory(facts.parameter_bytes, work, waiting, host=_host(workload), spare=_spare(workload, work))
    mapped = facts.converted_bytes
    if mapped == facts.checkpoint_bytes:
        mapped = max(0, mapped - (work - _base(workload)))
    return Memory(facts.parameter_bytes, work, waiting, mapped)


def _host(load: Workload) -> int:
    """What the host of an accelerator holds; pinned memory is given out by powers of two."""
    if not load.accelerated:
        return 0
    staging = 0 if load.engine == "resident" else 1 << (load.facts.largest_layer_bytes - 1).bit_length()
    waiting = _slices_in_queue(load) // 2 + _drafts_waiting(load)
    return ACCELERATOR_BASE_BYTES + DATASETS_BYTES * load.datasets + staging + waiting


def _spare(load: Workload, work: int) -> int:
    """110 to 290 MiB where it was measured, with 200 to 560 MiB of work."""
    return load.accelerated * (SPARE_BYTES + work // 4)


def _hidden(load: Workload, sequences: int) -> int:
    """Bytes of the hidden states of so many sequences."""
    return sequences * load.dimensions.positions * load.dimensions.features * load.encoding.itemsize


def _in_queue(each: int, count: int) -> int:
    """The most that wait of ``count`` pieces of ``each`` bytes: the queue's limit, and always one piece."""
    return min(each * count, max(each, QUEUE_BYTES))


def _slices_in_queue(load: Workload) -> int:
    cells = load.slices * load.sites * load.dimensions.layers
    return min(QUEUE_BYTES, cells * _hidden(load, load.sequences))


def _copies_waiting(load: Workload) -> int:
    """Copies of slices and, at a batch's end, of position peaks; their memory serves the next and is not given back.

    Where they are written while the model waits: all of a batch, or of a layer. Else none wait where a layer takes
    long, all that may where writers get little of a processor: some are expected. Peaks alone, of a run's only batch,
    wait when its activations are gone.
    """
    batch = _hidden(load, load.batch_size)
    several = load.sequences > load.batch_size
    ends = _in_queue(batch, load.sites) * (load.slices or several)
    if load.beside:
        return max(ends, _slices_in_queue(load) // 5)
    layers = load.dimensions.layers if load.engine == "resident" else math.ceil(load.sequences / load.batch_size)
    return max(ends, load.slices * _in_queue(batch, load.sites * layers))


def _drafts_waiting(load: Workload) -> int:
    """Copies of what batches need to go on, on their way to the disk: at least one, and half of those that may."""
    if load.engine != "streamed":
        return 0
    one = (1 + load.sites) * _hidden(load, load.batch_size)
    return max(one, min(QUEUE_BYTES, one * math.ceil(load.sequences / load.batch_size)) // 2)


def _base(load: Workload) -> int:
    kept = 0
    if load.facts.experts is not None:
        routed = load.batch_size * load.dimensions.positions * load.encoding.itemsize * _routed(load)
        kept = min(EXPERTS_BYTES, LEAST_EXPERTS_BYTES * load.avx512 + EXPERTS_KEPT * routed)
    return BASE_BYTES + TOKEN_BYTES * load.facts.vocabulary_size + DATASETS_BYTES * load.datasets + kept


def _routed(load: Workload) -> int:
    """Values of a token in its experts: they are given rows of their own, and give such."""
    return (load.facts.top_k or 0) * (load.facts.expert_features + 4 * load.dimensions.features)


def _work(load: Workload) -> int:
    facts, d, itemsize = load.facts, load.dimensions, load.encoding.itemsize
    tokens = load.batch_size * d.positions
    hidden = _hidden(load, load.batch_size)
    block = loss_block_positions(load.batch_size, d.positions, facts.vocabulary_size)
    # Logits in the model's dtype, in float32 where that is another, and their logarithms.
    copies = itemsize + FLOAT32 * (1 + (itemsize != FLOAT32))
    logits = load.batch_size * block * facts.vocabulary_size * copies
    states = HIDDEN_OF_AN_ACCELERATORS if load.accelerated else HIDDEN_OF_A_LAYER
    layer = states * hidden + tokens * itemsize * max(facts.widest_features, _routed(load))
    if facts.attention_implementation == "eager":
        layer += load.batch_size * facts.attention_heads * d.positions**2 * SCORE_TENSORS * itemsize
    if load.accelerated:
        peaks = (load.sites + 1) * hidden  # by position, and magnitudes that they are taken of
        return ACCELERATOR_BYTES + max(logits, layer) + peaks + CELLS_ON_THE_WAY * hidden
    # Layer by layer, peaks by position are among what waits between layers.
    peaks = hidden + (load.engine == "resident") * load.sites * hidden
    # Blocks of logits lie in the heap (``capture.heap``), are aligned and leave splinters: glibc takes 0 to 2 times
    # their size more before it comes to rest, and again where the next batch finds copies between them.
    again = load.engine == "resident" and load.sequences > load.batch_size
    splinters = 1 + again * min(MOST_SPLINTERS, max(0, math.ceil(d.positions / block) - 2))
    most = max(logits + logits * splinters // 2, layer) + _kept_by_heap(load)
    return _base(load) + most + peaks + _copies_waiting(load) + _drafts_waiting(load)


def _kept_by_heap(load: Workload) -> int:
    """What the heap keeps of the activations that lay in it, those below a size (``capture.heap``).

    They are aligned, and a hole that one leaves between others is a few bytes too small for the next of its size. Where
    layers run one by one, what is free is given back in between.
    """
    value = load.batch_size * load.dimensions.positions * load.encoding.itemsize
    blocks = (value * load.dimensions.features, value * load.facts.widest_features // 3)
    times = min(MOST_KEPT, KEPT_OF_A_LAYER * load.facts.layers) if load.engine == "resident" else KEPT_LAYER_BY_LAYER
    return times * sum(size for size in blocks if size < SMALL_BYTES)


def _waiting(load: Workload) -> int:
    if load.engine == "resident":
        return 0
    all_states = _hidden(load, load.sequences)
    waiting = all_states * (1 + load.sites)
    if load.engine == "streamed":
        return waiting + load.batch_size * load.argument_bytes
    return waiting + all_states + load.sequences * load.argument_bytes
