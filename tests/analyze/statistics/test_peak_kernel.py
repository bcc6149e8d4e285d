"""The compiled visit against NumPy on patterns: few hits and many, NaN, widths and lengths that no tile divides."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

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
            counts = np.zeros((levels.size, shape[1]), np.uint32)
            exactly = np.zeros((levels.size + 1, shape[1]), np.uint32)
            layer_peak = np.zeros(shape[1], encoding.unsigned)
            limits = unsigned(encoding.sign_mask - 1), unsigned(encoding.infinity)
            found = peak_kernel.reduce_rows(rows, levels, level_of, *limits, counts, exactly, layer_peak, position_peak)
            peak_kernel.total_hits(counts, exactly)
            assert found == (magnitudes >= encoding.infinity).sum()
            np.testing.assert_array_equal(counts, np.array([(clean >= t).sum(0) for t in levels]).reshape(counts.shape))
            np.testing.assert_array_equal(layer_peak, clean.max(0))
            np.testing.assert_array_equal(position_peak, np.maximum(clean, held)[: len(position_peak)])
