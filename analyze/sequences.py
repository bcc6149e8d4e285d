"""Which sequences of a store are analysed: the complete ones, and all of them unless a partial answer is asked for."""

from __future__ import annotations

import numpy as np

from analyze.quantities import counted
from schemas.errors import StoreError
from schemas.run import Run

__all__ = ["analysed_sequences"]


def analysed_sequences(run: Run, partial: bool) -> tuple[int, ...]:
    """Sequences of which every layer is committed.

    Raises StoreError where there is none, or where some are not complete and no ``partial`` answer is asked for.
    """
    committed = run.committed()
    complete = tuple(int(sequence) for sequence in np.flatnonzero(committed.all(axis=0)))
    if len(complete) == committed.shape[1]:
        return complete
    missing, total = int((~committed).sum()), committed.size
    lacking = (
        f"{run.path} is partial: {missing:,} of its {counted(total, '(layer, sequence) cell')} "
        f"{'is' if 1 in (missing, total) else 'are'} missing and "
        f"{len(complete)} of {counted(committed.shape[1], 'sequence')} "
        f"{'is' if 1 in (len(complete), committed.shape[1]) else 'are'} complete. "
        f"Finish it with: {run.finishing_command()}"
    )
    if not complete:
        raise StoreError(lacking)
    if not partial:
        raise StoreError(f"{lacking} -- or analyse the complete sequences only with --partial")
    return complete
