"""The form of a statistic: a small partial of each piece, partials put together, and a Dataset made of what is left."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from schemas.layout import RESIDUAL
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Context", "Key", "Partial", "Partials", "Statistic"]

Partial = dict[str, npt.NDArray[Any]]
"""What is known of some pieces: a few small arrays by name."""


class Key(NamedTuple):
    """Which pieces a partial is of; None for what it was combined over. ``start``: of a part's rows in its cell."""

    site: str | None
    layer: int | None
    sequence: int | None
    start: int | None


Partials = Mapping[Key, Partial]


@dataclass(frozen=True)
class Context:
    """What ``finalize`` knows beside the partials. ``positions``: the chosen ones, by sequence."""

    run: Run
    chosen: Chosen
    positions: Mapping[int, npt.NDArray[np.int64]]

    @property
    def residual_is_stored(self) -> bool:
        """False where ``Piece.residual`` recovers it from a norm's output, and results are to be marked approximate."""
        return RESIDUAL in self.run

    def cells(self, partials: Partials, name: str) -> npt.NDArray[Any]:
        """(site, layer, ...) of ``name`` of partials kept by site and layer."""
        chosen = self.chosen
        return np.stack(
            [np.stack([partials[Key(s, layer, None, None)][name] for layer in chosen.layers]) for s in chosen.sites]
        )

    def sequence_cells(self, partials: Partials, name: str) -> npt.NDArray[Any]:
        """(site, layer, sequence, ...) of ``name`` of partials kept by site, layer and sequence."""
        sequences = self.chosen.sequences

        def cell(site: str, layer: int) -> npt.NDArray[Any]:
            return np.stack([partials[Key(site, layer, sequence, None)][name] for sequence in sequences])

        return np.stack([np.stack([cell(s, layer) for layer in self.chosen.layers]) for s in self.chosen.sites])

    def dataset(self, variables: Mapping[str, tuple[Sequence[str], Any]], **attributes: Any) -> xr.Dataset:
        """A Dataset of (dims, values), with coordinates for site, layer, sequence and feature."""
        import xarray as xr

        used = {dim for dims, _ in variables.values() for dim in dims}
        coordinates = {
            "site": list(self.chosen.sites),
            "layer": list(self.chosen.layers),
            "sequence": list(self.chosen.sequences),
            "feature": np.arange(self.run.dimensions.features),
        }
        return xr.Dataset(
            {name: (tuple(dims), values) for name, (dims, values) in variables.items()},
            {dim: values for dim, values in coordinates.items() if dim in used},
            attributes,
        )


class Statistic(ABC):
    """A statistic with its parameters: a frozen dataclass, so that it can be sent to other processes and cached.

    ``keeps``: by which of ``site``, ``layer``, ``sequence`` and ``start`` (parts of a cell's positions) partials are
    kept apart; over the others they are combined. ``in_parts``: whether a cell of one sequence may be given as several
    pieces, along positions. ``needs``: arrays that it reads beside the slices, ``{array}`` being the site's own.
    ``bytes_per_value``: temporary memory of ``chunk`` for each value of a piece.

    ``combine`` gets partials always in one order, ascending by sequence, site, layer and position, grouped by the
    data alone: so sums of floats, too, have the same digits on any scheduler with any number of workers.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer"})
    in_parts: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    bytes_per_value: ClassVar[int] = 16

    @property
    def definition(self) -> dict[str, Any]:
        """All that decides its numbers, as JSON takes it: its name, version and parameters."""
        return {"name": self.name, "version": self.version, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    @property
    def least_magnitude(self) -> Fraction | None:
        """The smallest magnitude whose values decide it; None where all do. Stores keep values from a floor on."""
        return None

    def check(self, run: Run, chosen: Chosen) -> None:  # noqa: B027
        """Raise InputError where it cannot be measured of this part of the store; by default it always can."""

    @abstractmethod
    def chunk(self, piece: Piece) -> Partial:
        """What the piece contributes."""

    @abstractmethod
    def combine(self, first: Partial, second: Partial) -> Partial:
        """What two partials contribute together; may reuse the memory of ``first``."""

    @abstractmethod
    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        """The result."""

    def key(self, piece: Piece) -> Key:
        """Under which the piece's partial is kept."""
        k = self.keeps
        return Key(
            piece.site if "site" in k else None,
            piece.layer if "layer" in k else None,
            piece.sequence if "sequence" in k else None,
            piece.start if "start" in k else None,
        )
