"""The compiled visit against NumPy on patterns: few hits and many, NaN, widths and lengths that no tile divides.

And of a chunk that Blosc decodes a block at a time: its outputs are those of the chunk decoded as a whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numcodecs import Blosc

from analyze.statistics import peak_kernel
from analyze.statistics.peak_reduction import _levels
from schemas.bits import Encoding, encoding_named

Patterns = npt.NDArray[Any]


def patterns(encoding: Encoding, shape: tuple[int, int], scale: float, odd: bool) -> Patterns:
    """Normal values, every seventh feature ten times as large; with ``odd``, some NaN of either sign and infinities."""
    random = np.random.default_rng(shape[1])
    values = random.standard_normal(shape, np.float32) * np.float32(scale)
    values[:, ::7] *= 10
    bits: Patterns = values.view(np.uint32) >> (32 - 8 * encoding.itemsize)
    if odd:
        picked = random.integers(0, bits.size, 40)
        strange = np.array([encoding.infinity, encoding.infinity + 1, encoding.sign_mask - 1], np.uint32)
        bits.ravel()[picked] = random.choice(np.concatenate([strange, strange | np.uint32(encoding.sign_mask)]), 40)
    return bits.astype(encoding.unsigned)


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(("shape", "scale"), [((150, 200), 0.3), ((64, 64), 3), ((1, 9), 9), ((200, 130), 0.9)])
def test_the_visit_is_a_comparison_of_every_value(name: str, odd: bool, shape: tuple[int, int], scale: float) -> None:
    encoding = encoding_named(name)
    unsigned = encoding.unsigned.type
    rows = patterns(encoding, shape, scale, odd)
    magnitudes = rows & unsigned(encoding.sign_mask - 1)
    clean = np.where(magnitudes > encoding.infinity, unsigned(0), magnitudes)
    thresholds = tuple(np.unique(np.linspace(2, 12, 17, dtype=np.float32).view(np.uint32)).tolist())
    thresholds = tuple(t >> (32 - 8 * encoding.itemsize) for t in thresholds)
    held = np.random.default_rng(1).choice(clean.ravel(), shape)  # of earlier cells
    for asked in ((), thresholds):
        for position_peak in (held.copy(), held[:0]):
            levels, level_of = _levels(asked, encoding)
            counts = np.zeros((levels.size, shape[1]), np.uint16)
            exactly = np.zeros((levels.size + 1, shape[1]), np.uint16)
            layer_peak = np.zeros(shape[1], encoding.unsigned)
            limits = unsigned(encoding.sign_mask - 1), unsigned(encoding.infinity)
            found = peak_kernel.reduce_rows(rows, levels, level_of, *limits, counts, exactly, layer_peak, position_peak)
            peak_kernel.total_hits(counts, exactly)
            assert found == (magnitudes >= encoding.infinity).sum()
            np.testing.assert_array_equal(counts, np.array([(clean >= t).sum(0) for t in levels]).reshape(counts.shape))
            np.testing.assert_array_equal(layer_peak, clean.max(0))
            np.testing.assert_array_equal(position_peak, np.maximum(clean, held)[: len(position_peak)])


def reduced(loop: Any, values: Patterns, encoding: Encoding, shape: tuple[int, int]) -> tuple[Any, ...]:
    """What ``loop`` makes of ``values``, rows or a frame: whether it could, and all outputs."""
    unsigned = encoding.unsigned.type
    thresholds = np.unique(np.linspace(2, 12, 17, dtype=np.float32).view(np.uint32)) >> (32 - 8 * encoding.itemsize)
    levels, level_of = _levels(tuple(thresholds.tolist()), encoding)
    counts = np.zeros((levels.size, shape[1]), np.uint16)
    exactly = np.zeros((levels.size + 1, shape[1]), np.uint16)
    peaks = np.zeros(shape[1], encoding.unsigned), np.ones(shape, encoding.unsigned)
    limits = unsigned(encoding.sign_mask - 1), unsigned(encoding.infinity)
    nonfinite = loop(values, levels, level_of, *limits, counts, exactly, *peaks)
    peak_kernel.total_hits(counts, exactly)
    return nonfinite, counts, *peaks


@pytest.mark.parametrize(
    ("shape", "block", "codec"),
    [
        ((150, 200), 4096, ("lz4", 5, Blosc.BITSHUFFLE)),  # ten rows and some: a block cuts a row
        ((150, 200), 256, ("lz4", 5, Blosc.NOSHUFFLE)),  # less than a row
        ((64, 128), 2048, ("lz4", 5, Blosc.SHUFFLE)),  # no remainder
        ((33, 7), 0, ("zstd", 3, Blosc.BITSHUFFLE)),  # one block
        ((201, 64), 1024 + 16, ("zstd", 1, Blosc.SHUFFLE)),
    ],
)
def test_blocks_are_reduced_as_the_whole_is(shape: tuple[int, int], block: int, codec: tuple[str, int, int]) -> None:
    assert peak_kernel.decodes_blocks()
    encoding = encoding_named("bfloat16")
    rows = patterns(encoding, shape, 0.9, odd=True)
    rows[:, : shape[1] // 2] = rows[0, : shape[1] // 2]  # so that there is something to compress
    packed = np.frombuffer(Blosc(*codec, blocksize=block).encode(rows), np.uint8)
    assert not packed[2] & 2
    frame = packed.copy()
    found = reduced(peak_kernel.reduce_blocks, frame, encoding, shape)
    told = reduced(peak_kernel.reduce_rows, rows, encoding, shape)
    assert found[0] == told[0] > 0
    for ours, theirs in zip(found[1:], told[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(frame, packed)


def test_a_frame_that_is_not_decoded_by_blocks_is_told() -> None:
    assert peak_kernel.decodes_blocks()
    encoding, shape = encoding_named("bfloat16"), (150, 200)
    rows = np.tile(np.arange(200, dtype=np.uint16), (150, 1))
    good = np.frombuffer(Blosc("lz4", 5, Blosc.BITSHUFFLE, blocksize=4096).encode(rows), np.uint8)
    random = np.random.default_rng(2).integers(0, 2**16, shape).astype(np.uint16)
    broken = [np.frombuffer(Blosc("lz4", 5).encode(random), np.uint8), good[:10], good[:40], good[:-200]]
    for at, value in ((0, 9), (8, 0), (8, 255), (11, 255), (16, 0), (19, 127), (23, 128), (4, 1)):
        frame = good.copy()
        frame[at] = value
        broken.append(frame)
    for frame in broken:
        found = reduced(peak_kernel.reduce_blocks, frame.copy(), encoding, shape)
        assert found[0] == peak_kernel.UNDECODED
