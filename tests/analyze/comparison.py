"""What a result says, all of it, in a form that two results can be compared by."""

from __future__ import annotations

import dataclasses
from typing import Any

from analyze.thresholds.results import Result

__all__ = ["content"]


def content(result: Result) -> dict[str, Any]:
    """Every number of a result, without where it came from; NaN as text, so that it equals itself."""
    detail = result.detail
    return {
        "magnitude": result.magnitude,
        "outliers": result.outliers,
        "unique": result.unique_features,
        "by_sequence": result.by_sequence,
        "interval": result.interval,
        "means": (result.mean_layer_percent, result.mean_position_percent),
        "nonfinite": result.nonfinite,
        "perplexity": result.perplexity,
        "features": [dataclasses.astuple(feature) for feature in result.features()],
        "ties": result.ties,
        "common": None if detail is None else (detail.most_common, detail.most_common_hits),
        "quartiles": None if detail is None or detail.quartiles is None else repr(detail.quartiles),
    }
