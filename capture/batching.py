"""Which sequences go through the model together: batches, and the largest that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from capture.plan import CapturePlan

__all__ = ["LARGEST", "batches", "with_largest_batch"]

LARGEST = 64
"""Sequences of the largest batch that is chosen unasked; beyond it no machine computes faster."""


def batches(missing: Sequence[int], sequences: int, batch_size: int) -> list[range]:
    """The batches that hold a missing sequence. Batches start at multiples of ``batch_size``, so that a resumed run
    puts each sequence in the same company, and so gets the same bits, as an uninterrupted one.

    >>> batches([3, 4], sequences=6, batch_size=2)
    [range(2, 4), range(4, 6)]
    """
    starts = sorted({sequence // batch_size * batch_size for sequence in missing})
    return [range(start, min(start + batch_size, sequences)) for start in starts]


def with_largest_batch(plan: CapturePlan, available_bytes: int | None) -> CapturePlan:
    """``plan`` with the largest batch, a power of two, whose work fits beside the weights; its engine stays.

    A part of a store keeps its ends on those of batches. Where the memory is unknown, or nothing fits, the batch stays.
    """
    if available_bytes is None:
        return plan
    sequences, whole = plan.sequences, plan.dimensions.sequences
    size = 1
    while 2 * size <= min(LARGEST, len(sequences)):
        size *= 2
    while size > plan.batch_size:
        larger = replace(plan, batch_size=size)
        cut = sequences.start % size or (sequences.stop % size and sequences.stop != whole)
        if not cut and larger.memory.needed <= available_bytes:
            return larger
        size //= 2
    return plan
