"""``statistics``: what can be measured of the slices, by name, in one pass."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from analyze.opened import opened
from analyze.thresholds.asking import AnyRun
from schemas.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from analyze.statistics.statistic import Statistic

__all__ = ["statistics"]


def statistics(
    run: AnyRun,
    names: str | Iterable[str | Statistic] | Mapping[str, Mapping[str, Any]],
    *,
    sites: tuple[str, ...] | None = None,
    layers: tuple[int, ...] | None = None,
    sequences: tuple[int, ...] | None = None,
    positions: tuple[int, int | None] | None = None,
    tokens: str | None = None,
    in_gain_units: bool = False,
    partial: bool = False,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """The Dataset of each statistic, by its name, all from one pass over the slices, out of core.

    ``names``: one or several of ``analyze.statistics.registry.STATISTICS``, statistics themselves, or names with their
    parameters. What each returns, with dimensions and units, is in its own docstring. The selection is that of
    ``analyze.statistics.selection.Selection``; ``options`` are those of ``measure``: ``memory_limit``, ``threads``,
    ``scheduler``, ``progress``, ``skip_corrupt``, ``cache``. Raises InputError for a name or a parameter that is not
    known, and what ``measure`` raises.

    >>> found = statistics("runs/tiny.zarr", {"exceedances": {"magnitudes": ("6", "8")}}, cache=False)["exceedances"]
    >>> found.hits.sum(["site", "layer", "feature"]).values.tolist()  # 2 sites x 2 layers x 8 positions a sequence
    [96, 64]
    """
    from analyze.statistics.measure import measure
    from analyze.statistics.selection import Selection

    selection = Selection(sites, layers, sequences, positions, tokens, in_gain_units, partial)
    if isinstance(names, Mapping):
        asked = [_named(name, parameters) for name, parameters in names.items()]
    else:
        several = [names] if isinstance(names, str) else names
        asked = [_named(one, {}) if isinstance(one, str) else _given(one) for one in several]
    return measure(opened(run), asked, selection, **options)


def _given(given: Any) -> Statistic:
    from analyze.statistics.statistic import Statistic

    if not isinstance(given, Statistic):
        raise InputError(f"{given!r} is no statistic: give its name, such as 'moments'")
    return given


def _named(name: str, parameters: Mapping[str, Any]) -> Statistic:
    from analyze.statistics.registry import STATISTICS

    if name not in STATISTICS:
        near = difflib.get_close_matches(name, STATISTICS, 3)
        raise InputError(
            f"no statistic is called {name!r}; "
            + (f"did you mean {' or '.join(near)}? " if near else "")
            + f"known statistics: {', '.join(STATISTICS)}"
        )
    try:
        return STATISTICS[name](**parameters)
    except TypeError as error:
        raise InputError(f"statistic {name}: {str(error).split('__init__() ')[-1]}") from None
