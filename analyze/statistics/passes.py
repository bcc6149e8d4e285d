"""One pass over the slices, as a Dask graph that is given out some sequences at a time.

A task reads one block of cells of one sequence. What is kept by sequence is merged over a sequence's blocks and handed
out; the rest is folded over the sequences, block by block. Which partials are combined in which order follows from the
data alone, so the digits do not depend on who computes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from dask.delayed import delayed

from analyze.progress import Progress
from analyze.statistics.pass_plan import PassPlan
from analyze.statistics.scheduler import Scheduler
from analyze.statistics.statistic import Reduction
from analyze.statistics.work import Found, Task, forget_stores, merged

__all__ = ["Pass"]


class Pass:
    """A pass that is made as ``by_sequence`` is iterated; ``rest`` is complete when that has ended."""

    def __init__(
        self,
        path: str,
        plan: PassPlan,
        statistics: Sequence[Reduction],
        scheduler: Scheduler,
        skip: bool,
    ) -> None:
        self._task = Task(path, uuid.uuid4().hex, plan.chosen, tuple(statistics), skip)
        self._plan = plan
        self._statistics = tuple(statistics)
        self._scheduler = scheduler
        self.rest = Found(tuple({} for _ in statistics))

    def by_sequence(self, progress: Progress, label: str = "slices") -> Iterator[tuple[int, Found]]:
        """(sequence, partials of the statistics that keep sequences apart), each as it is complete."""
        folded: list[Any] = []
        sequences = iter(progress(self._plan.chosen.sequences, label, str(self._plan)))
        try:
            while wave := list(islice(sequences, self._plan.wave)):
                outputs = []
                for sequence in wave:
                    tasks = [_node(self._task, block) for block in self._plan.blocks(sequence)]
                    output: list[Any] = []
                    for task in tasks:  # one after another, so that what is merged is not kept until the last is read
                        output = [_node(partial(_of_sequence, self._statistics), *output, task)]
                    outputs += output
                    folded = [
                        _node(partial(_folded, self._statistics), *before, task)
                        for before, task in zip(
                            ([node] for node in folded) if folded else [[]] * len(tasks), tasks, strict=True
                        )
                    ]
                held = self._scheduler.persist([*outputs, *folded])
                folded = held[len(outputs) :]
                yield from zip(wave, self._scheduler.values(held[: len(outputs)]), strict=True)
            self.rest = merged(self._statistics, self._scheduler.values(folded))
        finally:
            forget_stores()


def _node(function: Any, *inputs: Any) -> Any:
    """``function`` of ``inputs`` as a node of a Dask graph. Other inputs are bound, lest Dask search them."""
    plain = [one for one in inputs if not hasattr(one, "dask")]
    if plain:
        return delayed(partial(function, *plain), pure=False)()
    return delayed(function, pure=False)(*inputs)


def _of_sequence(statistics: Sequence[Reduction], *blocks: Found) -> Found:
    return merged(statistics, (found.keeping(statistics, True) for found in blocks))


def _folded(statistics: Sequence[Reduction], *several: Found) -> Found:
    return merged(statistics, (found.keeping(statistics, False) for found in several))
