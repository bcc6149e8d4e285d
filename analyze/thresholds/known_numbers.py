"""The few numbers that a question came to after a pass or many draws, kept beside the store for when it is asked again.

They are found again for the very same store and code, as results are: docs/decisions/051-cached-statistics.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy.typing as npt

from analyze.statistics.cache import Cache
from analyze.thresholds.plan import Plan
from schemas.run import Run

__all__ = ["Numbers", "known_numbers"]

Numbers = dict[str, npt.NDArray[Any]]


def known_numbers(
    run: Run, plan: Plan, cache: bool, name: str, measure: Callable[[], Numbers], **parameters: Any
) -> Numbers:
    """What ``measure`` finds for the question of ``plan`` under ``name`` with ``parameters``, or found before.

    ``measure`` leaves nothing out that could not be read. ``cache``: False neither finds nor keeps.
    """
    kept = Cache(run, plan.chosen, cache)
    definition = {"name": name, "question": asdict(plan.question), "parameters": parameters}
    held = kept.find_arrays(definition)
    if held is not None:
        return held
    found = measure()
    kept.keep_arrays(definition, found)
    return found
