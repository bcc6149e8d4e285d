"""A store's survival, kept beside it: a sweep that was asked before, at whatever magnitudes, reads no peaks again.

It is found again for the very same store alone, as results of passes are: docs/decisions/051-cached-statistics.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analyze.statistics.cache import Cache
from analyze.thresholds.peaks import stored_peaks
from analyze.thresholds.plan import Plan
from analyze.thresholds.survival import Survival, can_survive, take_survival
from schemas.run import Run, is_url

__all__ = ["known_survival", "survives"]

MANY_THRESHOLDS = 8
"""From so many on the survival is taken where it is not known: up to there one pass at the thresholds is quicker."""


def survives(plan: Plan) -> bool:
    """True where ``known_survival`` may answer the plan: from stored peaks, and without anything that slices say."""
    return plan.count_engine == "peaks" and not plan.question.details and can_survive(plan)


def known_survival(run: Run, plan: Plan, *, cache: bool, least: int = MANY_THRESHOLDS) -> Survival | None:
    """The survival that ``plan`` is read from: the kept one, or for ``least`` thresholds or more taken, and kept.

    ``cache``: False neither finds nor keeps. None where it is not known and fewer thresholds are asked.
    """
    kept = Cache(run, plan.chosen, cache and not is_url(run.path))
    definition = _definition(plan)
    arrays = kept.find_arrays(definition)
    if arrays is not None:
        nonfinite = int(arrays.pop("nonfinite"))
        return Survival(plan, **arrays, nonfinite=nonfinite)
    if len(plan.thresholds) < least:
        return None
    found = take_survival(plan, lambda: stored_peaks(run, plan))
    arrays = {name: getattr(found, name) for name in ("critical", "alone", "layers", "positions")}
    kept.keep_arrays(definition, {**arrays, "nonfinite": np.array(found.nonfinite)})
    return found


def _definition(plan: Plan) -> dict[str, Any]:
    """All that decides the numbers beside the store and what is chosen of it."""
    return {
        "name": "survival",
        "layer_unit": plan.question.definition.layer_unit,
        "scope": plan.question.definition.scope,
        "layers_needed": plan.layers_needed,
        "positions_needed": plan.positions_needed,
        "sequence_positions_needed": plan.sequence_positions_needed,
    }
