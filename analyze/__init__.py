"""Phase two: answer outlier criteria from a run store alone, out of core, without the model or torch.

Never imports ``capture``. The names below are imported when they are first used, so that importing this package, as
``analyze --help`` does, costs nothing. Everything that the command does is one of these calls.

>>> from analyze import outliers, sweep
>>> int(outliers("runs/tiny.zarr", magnitude=6).outliers)
3
>>> sweep("runs/tiny.zarr", "6:10:2", definition="llm-int8").unique_features.values.tolist()
[1, 1, 0]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyze.between.compare import compare as compare
    from analyze.between.difference import diff as diff
    from analyze.between.emergence import emergence as emergence
    from analyze.chance.asking import null as null
    from analyze.chance.asking import overlap as overlap
    from analyze.chance.asking import saturation as saturation
    from analyze.criteria import criterion_names as criterion_names
    from analyze.evaluation.evaluate import evaluate_criteria as evaluate_criteria
    from analyze.evaluation.exceedances import exceedances_by as exceedances_by
    from analyze.figures.plotting import plot_overview as plot_overview
    from analyze.formats import render as render
    from analyze.formats import render_tables as render_tables
    from analyze.inventory.store import StoreInfo as StoreInfo
    from analyze.inventory.store import info as info
    from analyze.measured import statistics as statistics
    from analyze.overviews.asking import overview as overview
    from analyze.quantisation.answer import quantisation_errors as quantisation_errors
    from analyze.thresholds.answers import answer as answer
    from analyze.thresholds.asking import outliers as outliers
    from analyze.thresholds.asking import sweep as sweep
    from analyze.thresholds.definitions import DEFINITIONS as DEFINITIONS
    from analyze.thresholds.question import Question as Question
    from analyze.thresholds.question import ask as ask
    from analyze.thresholds.results import Result as Result
    from schemas.dataset import open_run as open_run

_HOMES = {
    "DEFINITIONS": "analyze.thresholds.definitions",
    "Question": "analyze.thresholds.question",
    "Result": "analyze.thresholds.results",
    "StoreInfo": "analyze.inventory.store",
    "answer": "analyze.thresholds.answers",
    "ask": "analyze.thresholds.question",
    "compare": "analyze.between.compare",
    "criterion_names": "analyze.criteria",
    "diff": "analyze.between.difference",
    "emergence": "analyze.between.emergence",
    "evaluate_criteria": "analyze.evaluation.evaluate",
    "exceedances_by": "analyze.evaluation.exceedances",
    "info": "analyze.inventory.store",
    "null": "analyze.chance.asking",
    "open_run": "schemas.dataset",
    "outliers": "analyze.thresholds.asking",
    "overlap": "analyze.chance.asking",
    "overview": "analyze.overviews.asking",
    "plot_overview": "analyze.figures.plotting",
    "quantisation_errors": "analyze.quantisation.answer",
    "render": "analyze.formats",
    "render_tables": "analyze.formats",
    "saturation": "analyze.chance.asking",
    "statistics": "analyze.measured",
    "sweep": "analyze.thresholds.asking",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
