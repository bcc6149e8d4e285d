"""A bootstrap interval for a mean over sequences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RESAMPLES", "SEED", "mean_intervals"]

RESAMPLES = 10_000
SEED = 20_220_815
_AT_ONCE = 1_000
_COLUMNS = 256
"""Questions answered at a time: 20 MiB of means, and two copies of them on the way."""


def mean_intervals(counts: npt.NDArray[Any]) -> list[tuple[float, float] | None]:
    """The 95% percentile interval of the mean of each column of (sequence, question) counts.

    Sequences are drawn with replacement ``RESAMPLES`` times from a fixed seed, the same draws for every column, so
    the same counts give the same interval always. One sequence says nothing about others: None.

    >>> mean_intervals(np.array([[0, 2], [4, 2]]))
    [(0.0, 4.0), (2.0, 2.0)]
    """
    sequences, questions = counts.shape
    if sequences < 2:
        return [None] * questions
    draws = list(_draws(sequences))
    return [
        interval
        for start in range(0, questions, _COLUMNS)
        for interval in _intervals(draws, counts[:, start : start + _COLUMNS].astype(np.float64))
    ]


def _intervals(draws: list[npt.NDArray[np.float64]], counts: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    means = np.concatenate([some @ counts for some in draws]) / len(counts)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def _draws(sequences: int) -> Iterator[npt.NDArray[np.float64]]:
    """How often each sequence is drawn: (resample, sequence), a thousand resamples at a time."""
    generator = np.random.default_rng(SEED)
    for _ in range(0, RESAMPLES, _AT_ONCE):
        yield generator.multinomial(sequences, np.full(sequences, 1 / sequences), size=_AT_ONCE).astype(np.float64)
