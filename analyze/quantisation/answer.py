"""``quantisation_errors``: what each format makes of each cell of a run, as an xarray Dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from analyze.opened import opened
from analyze.progress import Progress, silent_progress
from analyze.quantisation.formats import chosen_formats
from analyze.quantisation.statistic import Quantisation
from analyze.statistics.measure import measure
from analyze.statistics.selection import EVERYTHING, Selection
from schemas.errors import InputError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["DEFAULT_ALPHA", "DEFAULT_GROUP_SIZE", "quantisation_errors", "quantisation_question"]

DEFAULT_GROUP_SIZE = 128
DEFAULT_ALPHA = "6"

_DECIMAL = re.compile(r"[0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40}")


def quantisation_errors(
    run: str | os.PathLike[str] | xr.Dataset | Run,
    formats: str | Iterable[str] = "all",
    selection: Selection = EVERYTHING,
    *,
    group_size: int = DEFAULT_GROUP_SIZE,
    alpha: str | float = DEFAULT_ALPHA,
    progress: Progress = silent_progress,
    **options: Any,
) -> xr.Dataset:
    """The error of the activation that each format makes at each site: it is not perplexity, nothing is propagated.

    ``formats``: ``"all"``, names of ``analyze.quantisation.formats.FORMATS``, or these in one text with commas.
    ``group_size`` is that of ``int8-absmax-group``, ``alpha`` the threshold of ``llm-int8``. ``options`` are those of
    ``measure``.

    Dimensions: ``positions`` ("all", "without 0"), ``format``, ``site``, ``layer``. Variables: ``sqnr_db`` (decibel),
    ``relative_error``, ``flushed`` and ``clipped`` (shares, 0 to 1), the counts ``values`` and ``nonfinite``, and
    with ``llm-int8`` ``outlier_columns`` and ``calls`` by ``tokens_per_call``. Formulas: docs/quantisation.md.
    Raises InputError for a format that there is not (the nearest are named) and StoreError where the run does not
    keep all values of its slices, or no gain where ``selection`` is in units of it.

    >>> found = quantisation_errors("runs/tiny.zarr", "int8-absmax-token,mxfp4")
    >>> found.sqnr_db.sel(positions="all", site="ln_mlp", layer=0).round(2).values.tolist()
    [53.32, 19.24]
    """
    statistic = quantisation_question(formats, group_size, alpha)
    store = opened(run)
    return measure(store, [statistic], selection, progress=progress, **options)[statistic.name]


def quantisation_question(
    formats: str | Iterable[str] = "all", group_size: int | str = DEFAULT_GROUP_SIZE, alpha: str | float = DEFAULT_ALPHA
) -> Quantisation:
    """The statistic that these words ask for; raises InputError for a malformed one.

    >>> quantisation_question("nvfp4,mxfp4").formats
    ('mxfp4', 'nvfp4')
    """
    names = [name.strip() for name in formats.split(",")] if isinstance(formats, str) else list(formats)
    chosen = chosen_formats(None if names == ["all"] else names)
    width, threshold = str(group_size).strip(), str(alpha).strip()
    if not (width.isascii() and width.isdigit() and 0 < int(width) < 2**31):
        raise InputError(f"--group-size {width!r} is no number of features: write 1 or more, for example 128")
    if _DECIMAL.fullmatch(threshold) is None or not threshold.strip("0."):
        raise InputError(f"--alpha {threshold!r} is no threshold: write a decimal above 0, for example 6 or 5.5")
    return Quantisation(tuple(entry.name for entry in chosen), int(width), threshold)
