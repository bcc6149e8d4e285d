"""Quantisation errors as a statistic: all formats on each cell of a sequence while it is in memory."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from analyze.quantisation.calls import Calls, columns_by_call, joined_calls, sizes_within
from analyze.quantisation.errors import Distinct, tensor_errors
from analyze.quantisation.formats import FORMATS, Format, chosen_formats
from analyze.quantisation.tensor import Settings
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Chosen
from analyze.statistics.statistic import Context, Key, Partial, Partials, Statistic
from schemas.bits import ENCODINGS, decode, threshold_bits
from schemas.errors import InputError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["POSITIONS", "WHAT_IT_IS", "Quantisation"]

POSITIONS = ("all", "without 0")
"""Which positions errors are taken over; the scales are those of all of them in both cases."""

WHAT_IT_IS = (
    "Error of the activation at its site, each sequence's tensor quantised by itself and put back: nothing is "
    "propagated to later layers, no weight is quantised, and it is not perplexity."
)

_OF_TENSOR = ("values", "nonfinite", "nonzero", "signal", "magnitude")
_OF_FORMAT = ("noise", "error", "flushed", "clipped")


@dataclass(frozen=True)
class Quantisation(Statistic):
    """Errors of quantising each tensor, that is a cell of one sequence, with each of ``formats``.

    ``alpha``: the threshold of ``llm-int8``, a decimal. Result, over (positions, format, site, layer), where positions
    are all or those without 0: ``sqnr_db``, 10 log10 of the sum of x^2 over that of the squared errors, infinite
    without error; ``relative_error``, the sum of |error| over that of |x|; ``flushed``, the share of nonzero values
    that become zero; ``clipped``, the share of values held at the format's largest. Sums are over the analysed
    sequences; what divides by 0 is NaN. ``values`` and ``nonfinite``: (positions, site, layer) counts of what the sums
    are over and of the NaN and infinite values that they leave out. With ``llm-int8`` also ``outlier_columns``
    (tokens_per_call, site, layer), the mean over ``calls`` of so many tokens.
    """

    formats: tuple[str, ...] = tuple(FORMATS)
    group_size: int = 128
    alpha: str = "6"

    name: ClassVar[str] = "quantisation"
    keeps: ClassVar[frozenset[str]] = frozenset({"site", "layer", "sequence"})
    in_parts: ClassVar[bool] = False
    bytes_per_value: ClassVar[int] = 24

    @property
    def _chosen(self) -> tuple[Format, ...]:
        return tuple(FORMATS[name] for name in self.formats)

    @property
    def settings(self) -> Settings:
        """What the kernels take: the threshold as the smallest float32 that is not below it."""
        pattern = threshold_bits(Fraction(self.alpha), ENCODINGS["float32"])
        return Settings(self.group_size, np.float32(np.array(pattern, np.uint32).view(np.float32)))

    def check(self, run: Run, chosen: Chosen) -> None:
        if isinstance(self.formats, str) or not chosen_formats(self.formats):
            raise InputError(f"formats={self.formats!r} is no list of formats: name at least one, as ('mxfp4',)")
        if not (isinstance(self.group_size, Integral) and self.group_size > 0):
            raise InputError(
                f"group_size={self.group_size!r} is no number of features: give 1 or more, for example 128"
            )

    def chunk(self, piece: Piece) -> Partial:
        settings = self.settings
        narrow = piece.encoding.itemsize == 2 and not piece.in_gain_units
        found: Partial = tensor_errors(
            piece.values,
            piece.position,
            self._chosen,
            settings,
            double=not narrow,
            distinct=_distinct(piece) if narrow and any(entry.elementwise for entry in self._chosen) else None,
        )
        if "llm-int8" in self.formats:
            found["columns"], found["hit_columns"] = columns_by_call(piece.values, settings.alpha)
        return found

    def combine(self, first: Partial, second: Partial) -> Partial:
        raise AssertionError("partials of different sequences are kept apart")

    def finalize(self, partials: Partials, context: Context) -> xr.Dataset:
        import xarray as xr

        sites, layers = context.chosen.sites, context.chosen.layers
        cells = [[_sequences(partials, context, site, layer) for layer in layers] for site in sites]
        sums = {
            name: np.array([[_summed(cell, name, len(self.formats)) for cell in row] for row in cells])
            for name in (*_OF_TENSOR, *_OF_FORMAT)
        }
        both = {name: np.stack([a.sum(axis=-1), a[..., 1]]) for name, a in sums.items()}  # (positions, site, layer ...)
        of_tensor = {name: both[name][:, np.newaxis] for name in _OF_TENSOR}
        both |= {name: np.moveaxis(both[name], -1, 1) for name in _OF_FORMAT}
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = {
                "sqnr_db": 10 * np.log10(of_tensor["signal"] / both["noise"]),
                "relative_error": both["error"] / of_tensor["magnitude"],
                "flushed": both["flushed"] / of_tensor["nonzero"],
                "clipped": both["clipped"] / of_tensor["values"],
            }
        data: dict[str, Any] = {name: (("positions", "format", "site", "layer"), a) for name, a in shares.items()}
        data |= {name: (("positions", "site", "layer"), both[name]) for name in ("values", "nonfinite")}
        coordinates: dict[str, Any] = {
            "positions": list(POSITIONS),
            "format": list(self.formats),
            "site": list(sites),
            "layer": list(layers),
        }
        if "llm-int8" in self.formats:
            calls = [[_calls(cell, context) for cell in row] for row in cells]
            sizes = sorted({size for row in calls for cell in row for size in cell})
            table = np.array([[[cell.get(size, (0, 0)) for cell in row] for row in calls] for size in sizes], np.int64)
            table = table.reshape(len(sizes), len(sites), len(layers), 2)
            with np.errstate(divide="ignore", invalid="ignore"):
                columns = table[..., 0] / table[..., 1]
            data["outlier_columns"] = (("tokens_per_call", "site", "layer"), columns)
            data["calls"] = (("tokens_per_call", "site", "layer"), table[..., 1])
            coordinates["tokens_per_call"] = sizes
        return xr.Dataset(data, coordinates, {"is": WHAT_IT_IS, "features": context.run.dimensions.features})


def _distinct(piece: Piece) -> Distinct:
    """The distinct finite values of a piece of 16-bit values, by counting patterns."""
    total = np.bincount(piece.patterns.ravel(), minlength=1 << 16)
    first = np.bincount(piece.patterns[piece.position == 0].ravel(), minlength=1 << 16)
    pattern = np.flatnonzero(total).astype(np.uint16)
    pattern = pattern[(pattern & (piece.encoding.sign_mask - 1)) < piece.encoding.infinity]
    counts = np.stack([first[pattern], (total - first)[pattern]], axis=1)
    return Distinct(decode(pattern, piece.encoding), counts.astype(np.int64))


def _sequences(partials: Partials, context: Context, site: str, layer: int) -> list[Partial | None]:
    """The partials of a cell by sequence, in order; None for one that was left out as corrupt."""
    return [partials.get(Key(site, layer, sequence, None)) for sequence in context.chosen.sequences]


def _summed(cell: list[Partial | None], name: str, formats: int) -> npt.NDArray[Any]:
    """A cell's sum over sequences, added up in their order: (2,) or (format, 2)."""
    total: npt.NDArray[Any] = np.zeros((formats, 2) if name in _OF_FORMAT else 2, np.int64)
    for partial in cell:
        if partial is not None:
            total = total + partial[name]
    return total


def _calls(cell: list[Partial | None], context: Context) -> Calls:
    """Outlier columns of one cell by tokens in a call.

    Where sequences have different numbers of chosen tokens, calls of whole sequences are no one size and left out.
    """
    lengths = [len(context.positions[sequence]) for sequence in context.chosen.sequences]
    uniform = len(set(lengths)) == 1 and lengths[0] > 0
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for partial, length in zip(cell, lengths, strict=True):
        if partial is None:
            continue
        for size, columns in zip(sizes_within(length), partial["columns"].tolist(), strict=True):
            if uniform or size.bit_count() == 1:
                found[size][0] += columns
                found[size][1] += length // size
    if uniform:
        bits = [None if partial is None else partial["hit_columns"] for partial in cell]
        for several, (columns, calls) in joined_calls(bits).items():
            found[several * lengths[0]] = [columns, calls]
    return {size: (columns, calls) for size, (columns, calls) in found.items()}
