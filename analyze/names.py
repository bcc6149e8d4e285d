"""What stores are called where several are shown together: two of one model must not look the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from analyze.results import Result

__all__ = ["label", "store_names"]


def store_names(results: Sequence[Result]) -> Mapping[str, str]:
    """A name for each store, by its path as given, where two stores are of models with one name; else none.

    The last part of the path, or all of it where that is not enough to tell them apart.
    """
    models = {result.store: result.info.model.name for result in results}
    if len(set(models.values())) == len(models):
        return {}
    short = {store: PurePath(store).name for store in models}
    return short if len(set(short.values())) == len(short) else {store: store for store in models}


def label(result: Result, names: Mapping[str, str]) -> str:
    """The model's name, and its store's where ``store_names`` found that it takes it."""
    model = result.info.model.name
    return f"{model} ({names[result.store]})" if names else model
