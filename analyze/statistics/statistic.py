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
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Context", "Key", "Partial", "Partials", "Reduction", "Statistic"]

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

    def cells(self, partials: Partials, name: str, dtype: Any = None) -> npt.NDArray[Any]:
        """(site, layer, ...) of ``name`` of partials kept by site and layer; 0 or NaN of one that could not be read."""
        held, chosen = _Held(partials, name), self.chosen
        whole = np.empty((len(chosen.sites), len(chosen.layers), *held.shape), dtype or held.dtype)
        for i, site in enumerate(chosen.sites):
            for j, layer in enumerate(chosen.layers):
                whole[i, j] = held[site, layer, None]
        return whole

    def sequence_cells(self, partials: Partials, name: str) -> npt.NDArray[Any]:
        """(site, layer, sequence, ...) of ``name`` of partials kept by all three; absent as in ``cells``."""
        held, chosen = _Held(partials, name), self.chosen
        whole = np.empty((len(chosen.sites), len(chosen.layers), len(chosen.sequences), *held.shape), held.dtype)
        for i, site in enumerate(chosen.sites):
            for j, layer in enumerate(chosen.layers):
                for k, sequence in enumerate(chosen.sequences):
                    whole[i, j, k] = held[site, layer, sequence]
        return whole

    def by_position(self, partials: Partials, name: str) -> npt.NDArray[Any]:
        """(sequence, position, ...) of ``name`` of partials kept by sequence and start; 0 where no row is chosen."""
        first = next(iter(partials.values()))[name]
        shape = (len(self.chosen.sequences), self.run.dimensions.positions, *first.shape[1:])
        whole = np.zeros(shape, first.dtype)
        for key, partial in partials.items():
            if key.sequence is not None and key.start is not None:
                rows = self.positions[key.sequence][key.start : key.start + len(partial[name])]
                chosen = whole[self.chosen.sequences.index(key.sequence)]
                if rows.size and rows[-1] - rows[0] + 1 == rows.size:  # one run: copied in a third of the time
                    chosen[rows[0] : rows[0] + rows.size] = partial[name]
                else:
                    chosen[rows] = partial[name]
        return whole

    def dataset(self, variables: Mapping[str, tuple[Sequence[str], Any]], **attributes: Any) -> xr.Dataset:
        """A Dataset of (dims, values), with coordinates for site, layer, sequence and feature."""
        import xarray as xr

        used = {dim for dims, _ in variables.values() for dim in dims}
        coordinates = {
            "site": list(self.chosen.sites),
            "layer": list(self.chosen.layers),
            "sequence": list(self.chosen.sequences),
            "position": np.arange(self.run.dimensions.positions),
            "feature": np.arange(self.run.dimensions.features),
        }
        return xr.Dataset(
            {name: (tuple(dims), values) for name, (dims, values) in variables.items()},
            {dim: values for dim, values in coordinates.items() if dim in used},
            attributes,
        )


class _Held:
    """Arrays by site, layer and sequence, with 0 or NaN for those of corrupt chunks that were left out."""

    def __init__(self, partials: Partials, name: str) -> None:
        self._partials, self._name = partials, name
        like = np.asarray(next(iter(partials.values()))[name]) if partials else np.zeros(())
        self._absent = np.full_like(like, np.nan if like.dtype.kind == "f" else 0)
        self.shape, self.dtype = like.shape, like.dtype

    def __getitem__(self, place: tuple[str, int, int | None]) -> npt.NDArray[Any]:
        held = self._partials.get(Key(*place, None))
        return self._absent if held is None else held[self._name]


class Reduction(ABC):
    """What a pass takes of the pieces, with its parameters: a frozen dataclass, so that processes can be sent it.

    ``keeps``: by which of ``site``, ``layer``, ``sequence`` and ``start`` (parts of a cell's positions) partials are
    kept apart; over the others they are combined. ``in_parts``: whether a cell of one sequence may be given as several
    pieces, along positions. ``needs``: arrays that it reads beside the slices, ``{array}`` being the site's own.
    ``bytes_per_value``: temporary memory of ``chunk`` for each value of a piece.

    Partials are combined always in one order, that of sequence, site, layer and position as chosen, grouped by the
    data alone: so sums of floats, too, have the same digits on any scheduler with any number of workers.
    """

    name: ClassVar[str]
    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer"})
    in_parts: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    bytes_per_value: ClassVar[int] = 16

    @property
    def definition(self) -> dict[str, Any]:
        """All that decides its numbers, as JSON takes it: its name and parameters."""
        return {"name": self.name, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    @property
    def least_magnitude(self) -> Fraction | None:
        """The smallest magnitude whose values decide it; None where all do. Stores keep values from a floor on."""
        return None

    @property
    def beside(self) -> tuple[str, ...]:
        """Arrays of slices that it reads beside each piece, whose damage is the piece's own."""
        return ()

    def check(self, run: Run, chosen: Chosen) -> None:  # noqa: B027
        """Raise InputError where it cannot be measured of this part of the store; by default it always can."""

    def partial_bytes(self, rows: int, features: int) -> int:
        """Memory of the partial of a piece, at most."""
        return 64 * features

    @abstractmethod
    def chunk(self, piece: Piece) -> Partial:
        """What the piece contributes."""

    @abstractmethod
    def combine(self, first: Partial, second: Partial) -> Partial:
        """What two partials contribute together; neither is changed."""

    def key(self, piece: Piece) -> Key:
        """Under which the piece's partial is kept."""
        k = self.keeps
        return Key(
            piece.site if "site" in k else None,
            piece.layer if "layer" in k else None,
            piece.sequence if "sequence" in k else None,
            piece.start if "start" in k else None,
        )


class Statistic(Reduction):
    """A reduction whose partials make a Dataset, so that it can be asked for by name."""

    def follow(self, partials: Partials, context: Context) -> Statistic | None:
        """The statistic of a second pass that gives the result, where one pass cannot; by default none is needed."""
        return None

    @abstractmethod
    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        """The result."""
