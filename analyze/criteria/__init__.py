"""Criteria beside the four definitions, a module each with its formula as ``CRITERION``; a new one is a new module."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TYPE_CHECKING

from schemas.errors import InputError

if TYPE_CHECKING:
    from analyze.evaluation.criterion import Criterion

__all__ = ["criteria_named", "criterion_names", "load_criterion", "written_names"]


def criterion_names() -> tuple[str, ...]:
    """Names of all criteria: those of this package's modules, which are not imported.

    >>> "massive" in criterion_names(), "super-experts" in criterion_names()
    (True, True)
    """
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def load_criterion(name: str) -> Criterion:
    """The criterion called ``name``; raises InputError with the nearest names for any other.

    >>> load_criterion("kurtosis").title
    'Kurtosis of feature RMS'
    """
    known = criterion_names()
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}? All of them" if near else "there are"
        raise InputError(f"no criterion is called {name!r}; {meant}: {', '.join(known)}")
    criterion: Criterion = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").CRITERION
    return criterion


def written_names(criteria: str | Iterable[str]) -> list[str]:
    """The names in ``massive,kurtosis``, or the names given; raises InputError for an empty one or what is no text.

    >>> written_names("massive, kurtosis") == written_names(("massive", "kurtosis"))
    True
    """
    given = criteria.split(",") if isinstance(criteria, str) else list(criteria)
    names = [name.strip() if isinstance(name, str) else "" for name in given]
    if not names or not all(names):
        raise InputError(f"--criteria {criteria!r} has an empty name: write them as massive,kurtosis, or all")
    return names


def criteria_named(criteria: str | Iterable[str]) -> tuple[Criterion, ...]:
    """The criteria of ``massive,kurtosis``, each once, or all of them for ``all``; raises InputError for others.

    >>> [criterion.name for criterion in criteria_named("massive,kurtosis")]
    ['massive', 'kurtosis']
    """
    names = written_names(criteria)
    if "all" in names:
        names = list(criterion_names())
    return tuple(load_criterion(name) for name in dict.fromkeys(names))
