"""Perplexity of a run's losses: one rule for what capture prints and what analyze answers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Perplexity", "perplexity"]


class Perplexity(NamedTuple):
    """``value`` is None where no token has a loss, or where one of the losses is no finite number.

    ``losses``: how many tokens have one. ``nonfinite_losses``: how many of those are NaN or infinite. ``unread``: why
    the losses could not be read, where their damage was to be skipped; else empty.
    """

    value: float | None
    losses: int
    nonfinite_losses: int
    unread: str = ""


def perplexity(token_nll: npt.NDArray[Any]) -> Perplexity:
    """exp of the mean of (sequence, position) losses in nats; infinite where that is past the largest float.

    Position 0 has nothing before it and so no loss, whatever is stored there; any other position has one, and a NaN
    among them is a broken model, not a gap.

    >>> perplexity(np.array([[np.nan, 1.0, 3.0]]))
    Perplexity(value=7.38905609893065, losses=2, nonfinite_losses=0, unread='')
    >>> perplexity(np.array([[np.nan, 1.0, np.nan]]))
    Perplexity(value=None, losses=2, nonfinite_losses=1, unread='')
    """
    losses = token_nll[:, 1:].astype(np.float64)
    nonfinite = int(np.count_nonzero(~np.isfinite(losses)))
    if nonfinite or not losses.size:
        return Perplexity(None, losses.size, nonfinite)
    with np.errstate(over="ignore"):
        return Perplexity(float(np.exp(losses.mean())), losses.size, 0)
