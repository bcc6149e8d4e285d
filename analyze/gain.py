"""Units of gain: whether a store can be asked in them, and values divided by the gain of the norm that made them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.statistics.selection import Chosen
from schemas.bits import ENCODINGS
from schemas.errors import InputError, StoreError
from schemas.layout import norm_array_name
from schemas.run import Run

__all__ = ["quotient_patterns", "require_gains"]

Values = npt.NDArray[np.float32]
Patterns = npt.NDArray[Any]


def require_gains(run: Run, chosen: Chosen, beside: Iterable[str] = ()) -> Fraction:
    """The smallest magnitude of any gain of the chosen cells, and of the arrays ``beside`` that are read with them.

    Raises StoreError where a gain is not stored, InputError where one is 0 or not finite: no value is in its units.
    """
    least: Fraction | None = None
    for site, array in (*zip(chosen.sites, chosen.arrays, strict=True), *((array, array) for array in beside)):
        name, norm = norm_array_name(array, "gain"), run.info.sites[array].norm
        held = run.read(name) if name in run else None
        for layer in chosen.layers:
            if held is None or norm is None or norm.kind is None or norm.modules[layer] is None:
                reason = f" ({norm.reason})" if norm is not None and norm.reason else ""
                raise StoreError(
                    f"{run.path} stores no gain for {site} of layer {layer}{reason}, which --in-gain-units divides by: "
                    "leave out --in-gain-units or choose other --sites; a capture with this version stores the gain of "
                    "every norm that it finds"
                )
            unusable = np.flatnonzero((held[layer] == 0) | ~np.isfinite(held[layer]))
            if unusable.size:
                feature = int(unusable[0])
                raise InputError(
                    f"--in-gain-units divides by the gain, and that of {site} of layer {layer} is "
                    f"{float(held[layer][feature]):g} at feature {feature} in {run.path}: leave out --in-gain-units, "
                    "or choose other --sites or --layers-range"
                )
            smallest = Fraction(float(np.abs(held[layer]).min()))
            least = smallest if least is None else min(least, smallest)
    return Fraction(0) if least is None else least


def quotient_patterns(values: Values, gain: Values) -> Patterns:
    """float32 patterns, with signs, of (row, feature) ``values`` divided by ``gain`` (feature,), towards zero: uint32.

    So ``|y / gain| >= m`` exactly where ``|quotient| >= m``, for every m that float32 holds. The division is in
    float64, which cannot round a quotient of two 24-bit numbers onto a float32 that it is not equal to: they are apart
    by 2**-48 of it or more.

    >>> quotient_patterns(np.array([[3.0, 1.0]], np.float32), np.array([0.5, -3.0], np.float32)).view(np.float32)
    array([[ 6.       , -0.3333333]], dtype=float32)
    """
    exact = values.astype(np.float64) / gain.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        nearest = exact.astype(np.float32)
        beyond = np.abs(nearest.astype(np.float64)) > np.abs(exact)
    patterns: Patterns = nearest.view(ENCODINGS["float32"].unsigned)
    patterns -= beyond.astype(patterns.dtype)
    return patterns
