"""What a question found in the slices, kept beside the store: asked again, it takes no pass.

It is found again for the very same store alone, as results of statistics are: docs/decisions/051-cached-statistics.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analyze.statistics.cache import Cache
from analyze.thresholds.plan import Plan
from analyze.thresholds.tally import Tally
from analyze.thresholds.units import Staircase, Units
from schemas.run import Run

if TYPE_CHECKING:
    from analyze.statistics.work import Excluded
    from analyze.thresholds.details import Details

__all__ = ["Measured", "known_tally"]

Measured = tuple[Tally, "Details | None"]
Arrays = dict[str, npt.NDArray[Any]]


def known_tally(
    run: Run, plan: Plan, cache: bool, excluded: list[Excluded], measure: Callable[[], Measured]
) -> Measured:
    """The tally, and details where they are asked for, that ``plan`` comes to: kept ones, or what ``measure`` finds.

    Only what takes the slices is kept, and only if nothing was left out: ``measure`` adds to ``excluded`` what was.
    ``cache``: False neither finds nor keeps.
    """
    if plan.count_engine == "peaks" and not plan.question.details:
        return measure()
    kept = Cache(run, plan.chosen, cache)
    definition = {"name": "tally", "question": asdict(plan.question), "by_count": plan.by_count}
    held = kept.find_arrays(definition)
    if held is not None:
        return _measured(plan, held)
    found = measure()
    if not excluded:
        kept.keep_arrays(definition, _arrays(*found))
    return found


def _arrays(tally: Tally, details: Details | None) -> Arrays:
    units = tally.units
    arrays: Arrays = {"feature": units.feature, "unit_critical": units.critical, "peak": units.peak}
    arrays |= {"critical": tally.critical, "nonfinite": np.array(tally.nonfinite)}
    for name, held in (("sequence", units.sequence), ("met", units.met), ("alone", tally.met)):
        if held is not None:
            arrays[name] = held
    if tally.largest is not None:
        arrays["largest"] = tally.largest
    for name in ("layers", "positions", "times", "positions_total"):
        value = getattr(units, name)
        if isinstance(value, Staircase):
            arrays |= {f"{name}.flat": value.flat, f"{name}.starts": value.starts}
        elif value is not None:
            arrays[name] = value
    return arrays if details is None else {**arrays, **_details_arrays(details)}


def _details_arrays(details: Details) -> Arrays:
    common = [(-1, -1) if one is None else one for one in details.most_common]
    known = [one is not None for one in details.quartiles]
    quartiles = [(0.0,) * 3 if one is None else (one.first, one.median, one.third) for one in details.quartiles]
    return {
        "details.hits": details.hits,
        "details.ties": details.ties,
        "details.two_sided": details.two_sided,
        "details.most_common": np.array(common, np.int64),
        "details.known": np.array(known, np.bool_),
        "details.quartiles": np.array(quartiles, np.float64),
    }


def _measured(plan: Plan, held: Arrays) -> Measured:
    def staircase(name: str) -> Staircase:
        return Staircase(held[f"{name}.flat"], held[f"{name}.starts"])

    units = Units(
        sequence=held.get("sequence"),
        feature=held["feature"],
        critical=held["unit_critical"],
        peak=held["peak"],
        layers=staircase("layers"),
        positions=staircase("positions"),
        times=staircase("times") if "times.flat" in held else None,
        layers_total=plan.layers_total,
        positions_total=held["positions_total"] if "positions_total" in held else staircase("positions_total"),
        met=held.get("met"),
    )
    tally = Tally(units, held["critical"], int(held["nonfinite"]), held.get("alone"), held.get("largest"))
    if not plan.question.details:
        return tally, None
    from analyze.thresholds.details import Details
    from analyze.thresholds.quartiles import Quartiles

    common, quartiles = held["details.most_common"].tolist(), held["details.quartiles"].tolist()
    details = Details(
        held["details.hits"],
        held["details.ties"],
        held["details.two_sided"],
        tuple(None if feature < 0 else (feature, hits) for feature, hits in common),
        tuple(
            Quartiles(*one) if known else None
            for one, known in zip(quartiles, held["details.known"].tolist(), strict=True)
        ),
    )
    return tally, details
