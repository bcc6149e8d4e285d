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

from dask.delayed import Delayed

from analyze.progress import Progress
from analyze.statistics.pass_plan import PassPlan
from analyze.statistics.place import Place
from analyze.statistics.scheduler import Scheduler
from analyze.statistics.statistic import Reduction
from analyze.statistics.work import Found, Task, forget_stores, merged
from schemas.run import Run

__all__ = ["Pass"]


class Pass:
    """A pass that is made as ``by_sequence`` is iterated; ``rest`` is complete when that has ended."""

    def __init__(
        self,
        run: Run,
        plan: PassPlan,
        statistics: Sequence[Reduction],
        scheduler: Scheduler,
        skip: bool,
    ) -> None:
        self._task = Task(Place.of(run, plan.chosen, scheduler), uuid.uuid4().hex, plan.chosen, tuple(statistics), skip)
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
                graph = _Graph(folded)
                outputs, rest = [], [node.key for node in folded]
                for sequence in wave:
                    tasks = [graph.add(partial(self._task, block)) for block in self._plan.blocks(sequence)]
                    output: list[str] = []
                    for task in tasks:  # one after another, so that what is merged is not kept until the last is read
                        output = [graph.add(partial(_of_sequence, self._statistics), *output, task)]
                    outputs += output
                    before = [[key] for key in rest] or [[]] * len(tasks)
                    rest = [
                        graph.add(partial(_folded, self._statistics), *held, task)
                        for held, task in zip(before, tasks, strict=True)
                    ]
                held = self._scheduler.persist(graph.nodes([*outputs, *rest]))
                folded = held[len(outputs) :]
                del graph  # and what it was folded from
                yield from zip(wave, self._scheduler.values(held[: len(outputs)]), strict=True)
            self.rest = merged(self._statistics, self._scheduler.values(folded))
        finally:
            forget_stores()


class _Graph:
    """A Dask graph made as one dictionary: one for each node, merged, takes a tenth of a second for a hundred nodes."""

    def __init__(self, held: Sequence[Any]) -> None:
        """Of what ``held`` nodes already have come to."""
        self._name = uuid.uuid4().hex
        self._tasks: dict[str, Any] = {key: task for node in held for key, task in node.dask.items()}

    def add(self, function: Any, *keys: str) -> str:
        """The key of ``function`` of what ``keys`` come to. Other inputs are bound, lest Dask search them."""
        key = f"{self._name}-{len(self._tasks)}"
        self._tasks[key] = (function, *keys)
        return key

    def nodes(self, keys: Sequence[str]) -> list[Any]:
        """A Dask collection of each of ``keys``."""
        return [Delayed(key, self._tasks) for key in keys]  # type: ignore[no-untyped-call]


def _of_sequence(statistics: Sequence[Reduction], *blocks: Found) -> Found:
    return merged(statistics, (found.keeping(statistics, True) for found in blocks))


def _folded(statistics: Sequence[Reduction], *several: Found) -> Found:
    return merged(statistics, (found.keeping(statistics, False) for found in several))
