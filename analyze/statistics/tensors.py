"""The tensors that criteria are defined on: what a site holds, and the residual stream behind it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Context, Key, Partial, Partials, Statistic
from schemas.bits import decode
from schemas.layout import RESIDUAL, norm_array_name
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CAPTURE_RESIDUAL", "KINDS", "Kind", "Tensor", "TensorStatistic", "find_tensors"]

Kind = Literal["residual", "norm output"]
KINDS: tuple[Kind, ...] = ("residual", "norm output")
Values = npt.NDArray[np.float32]

CAPTURE_RESIDUAL = "Capture the residual itself: --sites ln_attn,ln_mlp,residual"


@dataclass(frozen=True)
class Tensor:
    """One tensor of each layer: the norm output that ``site`` holds, or the residual that entered that norm.

    ``approximate`` where the residual is not stored and is recovered from the norm's output. ``held`` where the site
    holds the residual itself, as those of a model without a norm before its blocks do.
    """

    kind: Kind
    site: str
    approximate: bool = False
    held: bool = False

    @property
    def label(self) -> str:
        """What it is called: ``ln_mlp``, ``residual``, ``residual before ln_mlp``."""
        if self.kind == "norm output":
            return self.site
        return f"residual before {self.site}" if self.approximate else "residual"

    def values(self, piece: Piece) -> Values:
        """Of a piece of its site: float32 (row, feature)."""
        if self.kind == "norm output":
            return piece.values
        return decode(piece.stored, piece.encoding) if self.held else piece.residual()


def find_tensors(run: Run, chosen: Chosen, kinds: Sequence[Kind]) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """The tensors of ``kinds`` that the chosen sites have, and why others cannot be had, a clause for each.

    The residual of ``ln_attn`` is the stored one where the run has it; behind any other norm it is recovered, unless a
    gain is 0 there or no norm was recorded.
    """
    residual = run.info.site_array(RESIDUAL) if RESIDUAL in run.info.sites else None
    found: dict[str, Tensor] = {}
    reasons: list[str] = []
    for kind in kinds:
        for site, array in zip(chosen.sites, chosen.arrays, strict=True):
            if kind == "norm output":
                if array != RESIDUAL:
                    found.setdefault(site, Tensor(kind, site))
                continue
            held = array == residual
            stored = held or (array == "ln_attn" and residual == RESIDUAL)
            why = None if stored else _unrecoverable(run, site, array, chosen.layers)
            if why is None:
                tensor = Tensor(kind, site, not stored, held)
                found.setdefault(tensor.label, tensor)
            else:
                reasons.append(why)
    return tuple(found.values()), tuple(reasons)


def _unrecoverable(run: Run, site: str, array: str, layers: Sequence[int]) -> str | None:
    """Why the residual behind a site cannot be recovered from what the store holds; None where it can."""
    norm = run.info.sites[array].norm
    gains = None if norm is None or norm.kind is None else run.read(norm_array_name(array, "gain"))
    for layer in layers:
        if gains is None or norm is None or norm.modules[layer] is None:
            reason = (norm.reason if norm else None) or "none was looked for"
            return f"no residual before {site}: no norm is recorded for layer {layer} ({reason})"
        zero = np.flatnonzero(gains[layer] == 0)
        if zero.size:
            return (
                f"no residual before {site}: its norm in layer {layer} has a gain of 0 at feature {zero[0]}, behind "
                "which nothing is left of it"
            )
    return None


@dataclass(frozen=True)
class TensorStatistic(Statistic):
    """A statistic of the values of each of ``tensors`` by itself, whatever site it is.

    A subclass says what ``of`` one tensor's values is kept, how two of those go ``together``, and in ``parts`` the
    dimensions of each beside tensor and layer (and sequence, where ``keeps`` has it).
    """

    tensors: tuple[Tensor, ...]

    bytes_per_value: ClassVar[int] = 36
    """What recovering a residual takes in float64, more than is made of it."""
    parts: ClassVar[Mapping[str, tuple[str, ...]]]

    def partial_bytes(self, rows: int, features: int) -> int:
        of_feature = sum(dims == ("feature",) for dims in self.parts.values())
        return len(KINDS) * (8 * features * of_feature + 200 * len(self.parts))

    @abstractmethod
    def of(self, values: Values) -> Partial:
        """What float32 (row, feature) values contribute."""

    @abstractmethod
    def together(self, first: Partial, second: Partial) -> Partial:
        """What two partials of one tensor contribute."""

    def chunk(self, piece: Piece) -> Partial:
        return {
            f"{tensor.label}/{name}": value
            for tensor in self.tensors
            if tensor.site == piece.site
            for name, value in self.of(tensor.values(piece)).items()
        }

    def combine(self, first: Partial, second: Partial) -> Partial:
        joined: Partial = {}
        for tensor in self.tensors:
            a, b = _own(first, tensor), _own(second, tensor)
            if a and b:
                joined |= {f"{tensor.label}/{name}": value for name, value in self.together(a, b).items()}
            else:
                joined |= {f"{tensor.label}/{name}": value for name, value in (a or b).items()}
        return joined

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        """Each of ``parts`` over (tensor, layer, ...); NaN, or 0 of counts, where every sequence was left out."""
        chosen = context.chosen
        by_sequence = "sequence" in self.keeps
        kept = ("tensor", "layer", *(["sequence"] if by_sequence else []))
        sequences: tuple[int | None, ...] = chosen.sequences if by_sequence else (None,)
        variables = {}
        for name, dims in self.parts.items():
            rows = [
                partials.get(Key(tensor.site, layer, sequence, None), {}).get(f"{tensor.label}/{name}")
                for tensor in self.tensors
                for layer in chosen.layers
                for sequence in sequences
            ]
            shape = (len(self.tensors), len(chosen.layers), *([len(sequences)] if by_sequence else []))
            filled = _filled(rows)
            variables[name] = ((*kept, *dims), filled.reshape(*shape, *filled.shape[1:]))
        dataset = context.dataset(variables)
        return dataset.assign_coords(
            tensor=[tensor.label for tensor in self.tensors],
            kind=("tensor", [tensor.kind for tensor in self.tensors]),
            approximate=("tensor", [tensor.approximate for tensor in self.tensors]),
        )


def _own(partial: Partial, tensor: Tensor) -> Partial:
    start = f"{tensor.label}/"
    return {name.removeprefix(start): value for name, value in partial.items() if name.startswith(start)}


def _filled(rows: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any]:
    """``rows`` stacked, with NaN (of counts: 0) for those that are None."""
    known = next((row for row in rows if row is not None), np.asarray(np.nan))
    missing = np.full_like(known, np.nan if np.asarray(known).dtype.kind == "f" else 0)
    return np.stack([missing if row is None else row for row in rows])
