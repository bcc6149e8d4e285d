"""What a statistic is given: the chosen rows of one cell of one sequence, or of a part of its positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.bits import Encoding, decode, magnitude_bits
from schemas.errors import InputError
from schemas.layout import NORM_STATISTICS, RESIDUAL, norm_array_name
from schemas.provenance import NormInfo
from schemas.recovery import norm_input

__all__ = ["Piece"]

Patterns = npt.NDArray[Any]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """Rows of ``site`` (held in ``array``) in one layer and sequence; rows are positions, columns features.

    ``stored``: (row, feature) as stored. It lies in memory that the next piece is read into, so a statistic keeps no
    view of it, nor of ``patterns``, ``magnitudes`` and ``values``. ``position``: (row,) the rows' positions.
    ``start``: how many chosen rows of the cell come before these. ``frame``: where it is given, the rows as Blosc made
    them, and ``stored`` is memory that they are not yet decoded into; only ``reduce_piece`` takes such a piece.
    """

    site: str
    array: str
    layer: int
    sequence: int
    position: npt.NDArray[np.int64]
    start: int
    stored: Patterns
    encoding: Encoding
    in_gain_units: bool
    norm: NormInfo | None
    read_beside: Callable[[str, int, int, npt.NDArray[np.int64]], Patterns | None]
    frame: npt.NDArray[np.uint8] | None = None

    @property
    def patterns(self) -> Patterns:
        """Bit patterns with their signs: (row, feature) unsigned integers."""
        return self.stored.view(self.encoding.unsigned)

    @cached_property
    def magnitudes(self) -> Patterns:
        """Sign-cleared patterns, which order like magnitudes; those of NaN are above infinity's: (row, feature)."""
        return magnitude_bits(self.stored, self.encoding)

    @cached_property
    def values(self) -> Values:
        """float32 (row, feature); in gain units, divided by the gain of the feature, and NaN where that is 0.

        The division is in float64 and rounded once.
        """
        values = decode(self.stored, self.encoding)
        if self.in_gain_units:
            gain = self.gain.astype(np.float64)
            with np.errstate(over="ignore"):
                values = (values / np.where(gain == 0, np.nan, gain)).astype(np.float32)
        return values

    @property
    def gain(self) -> Values:
        """Of the norm that feeds the site, as applied: (feature,); raises InputError where the store has none."""
        gain = self.beside(norm_array_name(self.array, "gain"))
        if gain is None or self.norm is None or self.norm.modules[self.layer] is None:
            raise InputError(
                f"{self.site} of layer {self.layer} has no gain in this store, so it cannot be asked in units of gain. "
                "A capture of the model with this version records the gains of its norms"
            )
        return gain

    def beside(self, name: str) -> Patterns | None:
        """This cell's part of another stored array, as stored: its layer, its sequence, these rows; None if absent.

        For example ``ln_mlp_rms`` (row,), ``ln_mlp_gain`` (feature,), ``expert_id`` (row, rank), ``token_mask`` (row,).
        """
        return self.read_beside(name, self.layer, self.sequence, self.position)

    def residual(self) -> Values:
        """What entered the norm that feeds this site: float32 (row, feature).

        As stored where the run holds it (``ln_attn`` of a run with the site ``residual``, and that site itself);
        otherwise recovered from the norm's output, and so approximate: see ``schemas.norm_input``. Raises InputError
        where a gain is 0 or no norm was recorded. Made once for all that ask.
        """
        return self._residual

    @cached_property
    def _residual(self) -> Values:
        if self.array == RESIDUAL:
            return decode(self.stored, self.encoding)
        if self.array == "ln_attn":
            stored = self.beside(RESIDUAL)
            if stored is not None:
                return decode(stored, self.encoding)
        norm = self.norm
        if norm is None or norm.kind is None or norm.modules[self.layer] is None:
            reason = (norm.reason if norm else None) or "none was looked for"
            raise InputError(
                f"the store has no norm for {self.site} of layer {self.layer} ({reason}), so its residual cannot be "
                "recovered. Capture it with --sites ln_attn,ln_mlp,residual"
            )
        quantities = {name: self.beside(norm_array_name(self.array, name)) for name in NORM_STATISTICS[norm.kind]}
        gain = self.gain
        if (gain == 0).any():
            zero = int(np.flatnonzero(gain == 0)[0])
            raise InputError(
                f"the norm of {self.site} of layer {self.layer} has a gain of 0 at feature {zero}, behind which "
                "nothing is left of the residual. Capture it with --sites ln_attn,ln_mlp,residual"
            )
        bias = self.beside(norm_array_name(self.array, "bias")) if norm.bias else None
        return norm_input(decode(self.stored, self.encoding), gain, norm.eps or 0.0, bias=bias, **quantities)
