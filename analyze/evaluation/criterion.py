"""The form of a criterion: what it is computed of, how, and which of its numbers are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import xarray as xr

    from analyze.statistics.selection import Chosen
    from analyze.statistics.tensors import Kind, TensorStatistic
    from schemas.run import Run

__all__ = ["Criterion", "Quantity"]


@dataclass(frozen=True)
class Quantity:
    """A number of each tensor and layer that is shown: a variable of the criterion's Dataset, and its heading.

    ``over_layers`` says what one number for all layers is: their ``sum``, their ``mean`` or the ``largest``, which is
    shown with its layer where ``where`` is true.
    """

    name: str
    heading: str
    over_layers: Literal["sum", "mean", "largest"]
    where: bool = False


@dataclass(frozen=True)
class Criterion:
    """One criterion as data; adding one is adding a module to ``analyze.criteria`` that defines it as ``CRITERION``.

    ``formula`` and ``source`` go with every answer. A criterion is computed of ``kinds`` of tensors through a
    ``statistic`` over the slices, whose Dataset ``evaluate`` turns into the answer, over (tensor, layer, ...); or,
    without these, of something else that the store holds by ``read``, which raises StoreError where it does not.

    ``outliers``: the boolean variable, over (tensor, layer, feature), of what the criterion flags, which is called
    ``flagged``; None where it is a number without a threshold.
    """

    name: str
    title: str
    formula: str
    source: str
    quantities: tuple[Quantity, ...]
    kinds: tuple[Kind, ...] = ()
    statistic: type[TensorStatistic] | None = None
    evaluate: Callable[[xr.Dataset], xr.Dataset] | None = None
    read: Callable[[Run, Chosen], xr.Dataset] | None = None
    outliers: str | None = None
    flagged: str = "features"
