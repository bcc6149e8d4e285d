"""What stores are called where several are shown together: two of one model must not look the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from analyze.tables.printable import printable
from analyze.thresholds.plan import Plan
from analyze.thresholds.results import Result
from schemas.provenance import RunInfo

__all__ = ["compared", "label", "labelled", "model_labels", "model_name", "store_names"]


def model_name(info: RunInfo) -> str:
    """What the store calls its model, printable: one that turns the direction of text would turn its neighbours."""
    return printable(info.model.name)


def store_names(results: Sequence[Result]) -> Mapping[str, str]:
    """A name for each store, by its path as given, where two stores are of models with one name; else none.

    The last part of the path, or all of it where that is not enough to tell them apart.
    """
    return _told_apart({result.store: model_name(result.info) for result in results})


def compared(results: Sequence[Result]) -> tuple[list[RunInfo], list[Plan], list[str]]:
    """Provenance, plan and name of each store of ``results``, each once: what ``comparison_notes`` takes."""
    firsts = list({result.store: result for result in results}.values())
    names = store_names(results)
    return [r.info for r in firsts], [r.plan for r in firsts], [label(r, names) for r in firsts]


def _told_apart(models: Mapping[str, str]) -> Mapping[str, str]:
    if len(set(models.values())) == len(models):
        return {}
    short = {store: PurePath(store).name for store in models}
    names = short if len(set(short.values())) == len(short) else {store: store for store in models}
    return {store: printable(name) for store, name in names.items()}


def model_labels(infos: Sequence[RunInfo], stores: Sequence[str]) -> list[str]:
    """What each of these stores is called: its model's name, and its own where two models share one."""
    return labelled([info.model.name for info in infos], stores)


def labelled(models: Sequence[str], stores: Sequence[str]) -> list[str]:
    """The models' names, each with its store's where two are the same."""
    models = [printable(model) for model in models]
    names = _told_apart(dict(zip(stores, models, strict=True)))
    return [f"{model} ({names[store]})" if names else model for store, model in zip(stores, models, strict=True)]


def label(result: Result, names: Mapping[str, str]) -> str:
    """The model's name, and its store's where ``store_names`` found that it takes it."""
    model = model_name(result.info)
    return f"{model} ({names[result.store]})" if names else model
