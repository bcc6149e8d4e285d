"""The run that a caller of the Python interface names: by path or URL, as a Dataset from ``open_run``, or itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from schemas.errors import InputError
from schemas.run import Run, is_url

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["opened", "path_of", "require_distinct"]

_ASK = "an answer is about the run as its store holds it. Give what open_run returned, or the path"


def path_of(run: str | os.PathLike[str] | xr.Dataset | Run) -> str:
    """Path or URL of the store; raises InputError for a Dataset that is not one from ``open_run``, whole and unaltered.

    A selection of a run is refused: its peaks are those of the whole run, and no answer may mix the two. So is one
    whose arrays were computed (``run * 2``), assigned or put in another order, for answers come from the store. Values
    that were overwritten in place, rolled or renamed cannot be told from the store's: those are answered as it is.
    """
    if isinstance(run, Run):
        return run.path
    if isinstance(run, str | os.PathLike):
        return os.fspath(run)
    source = getattr(run, "encoding", {}).get("source")
    if source is None:
        raise InputError(
            f"a {type(run).__name__} that open_run did not return names no run: give what analyze.open_run(PATH) "
            "returns, or the path itself. A selection of it is no run either: ask with sites=, and so on"
        )
    store = Run(source)
    whole = store.dimensions
    for name, size in (
        ("layer", whole.layers),
        ("sequence", whole.sequences),
        ("position", whole.positions),
        ("feature", whole.features),
    ):
        if run.sizes.get(name, size) != size:
            raise InputError(
                f"this Dataset has {run.sizes[name]:,} of the {size:,} {name}s of {source}: an answer is about the run "
                "as its store holds it. Give the Dataset whole, and what to look at as knobs"
            )
        if name in run.coords and run[name].values.tolist() != list(range(size)):
            raise InputError(f"this Dataset has the {name}s of {source} in another order, or named anew: {_ASK}")
    for held in run.data_vars:
        # Whatever computes values leaves out how they were stored; ``load``, ``chunk`` and the like keep it.
        if (str(held) in store or held in store.info.sites) and "preferred_chunks" not in run[held].encoding:
            raise InputError(f"{held} of this Dataset is not as {source} holds it, but computed or assigned: {_ASK}")
    return str(source)


def opened(run: str | os.PathLike[str] | xr.Dataset | Run) -> Run:
    """The run, opened; raises what ``path_of`` and ``Run`` raise."""
    return run if isinstance(run, Run) else Run(path_of(run))


def require_distinct(paths: Iterable[str]) -> None:
    """Raise InputError where two of the paths lead to one store: a row beside itself is a comparison of nothing."""
    places: dict[str, str] = {}
    for path in paths:
        place = path.rstrip("/") if is_url(path) else os.path.realpath(path)
        if place in places:
            other = places[place]
            told = f"{path} is given twice" if path == other else f"{other} and {path} are one store"
            raise InputError(f"{told}: name each store once")
        places[place] = path
