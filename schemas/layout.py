"""The arrays of a run store as data: names, dimensions, dtypes, fill values, chunks and codecs.

Everything here is a pure function of a run's dimensions; ``schemas.run`` writes what it says and
docs/store-format.md states it in words. Adding an array touches ``plan_arrays`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from schemas.bits import Encoding
from schemas.codecs import COMMON, PEAKS, default_codec
from schemas.provenance import NormInfo

__all__ = [
    "MASK_DOCUMENT_START",
    "MASK_SPECIAL",
    "MAX_CHUNK_BYTES",
    "NORM_STATISTICS",
    "NO_EXPERT",
    "RESIDUAL",
    "ArraySpec",
    "Dimensions",
    "layer_peak_name",
    "nonfinite_name",
    "norm_array_name",
    "plan_arrays",
    "position_peak_name",
]

MAX_CHUNK_BYTES = 32 * 2**20
"""Largest decoded chunk; longer sequences are split along ``position``."""

NO_EXPERT = 65535
"""What ``expert_id`` holds in a layer that has no experts."""

MASK_SPECIAL = 1
"""Bit of ``token_mask``: the token is one of the tokenizer's special tokens."""
MASK_DOCUMENT_START = 2
"""Bit of ``token_mask``: the token is the first of a document."""

RESIDUAL = "residual"
"""The site that is the tensor entering a decoder layer: the residual stream, which no norm has been through."""

NORM_STATISTICS: Mapping[str, tuple[str, ...]] = MappingProxyType({"rms": ("rms",), "layer": ("mean", "std")})
"""What is stored of each token that enters a norm, by the norm's kind."""


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a run: decoder layers, sequences, positions in a sequence, features of a hidden state.

    Of a mixture of experts also ``ranks``, the experts that a token uses, and ``experts``; 0 where no array has them.
    """

    layers: int
    sequences: int
    positions: int
    features: int
    ranks: int = 0
    experts: int = 0

    def size(self, dim: str) -> int:
        """Length of the dimension called ``dim``."""
        sizes = {
            "layer": self.layers,
            "sequence": self.sequences,
            "position": self.positions,
            "feature": self.features,
            "rank": self.ranks,
            "expert": self.experts,
        }
        return sizes[dim]


@dataclass(frozen=True)
class ArraySpec:
    """One array: all that is needed to create it."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: int | float
    attributes: tuple[tuple[str, str | bool], ...] = ()
    codec: str = COMMON

    @property
    def raw_bytes(self) -> int:
        """Bytes of the whole array before compression."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_count(self) -> int:
        """How many chunks, and so files, the full array has."""
        return math.prod(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))


def layer_peak_name(site: str) -> str:
    """Array of a site's maxima over positions."""
    return f"{site}_layer_peak"


def position_peak_name(site: str) -> str:
    """Array of a site's maxima over layers."""
    return f"{site}_position_peak"


def nonfinite_name(site: str) -> str:
    """Array of a site's counts of NaN and infinite values."""
    return f"{site}_nonfinite"


def norm_array_name(site: str, quantity: str) -> str:
    """Array of a site's norm: ``quantity`` is one of its statistics (``NORM_STATISTICS``), ``gain`` or ``bias``."""
    return f"{site}_{quantity}"


def plan_arrays(
    dimensions: Dimensions,
    sites: Iterable[str],
    encoding: Encoding,
    *,
    norms: Mapping[str, NormInfo] | None = None,
    slices: bool = True,
    codecs: Mapping[str, str] | None = None,
) -> tuple[ArraySpec, ...]:
    """Every array of a run with these stored ``sites``, in the order they are created.

    Each chunk is written whole by one writer: a chunk never spans two sequences, so processes that fill disjoint
    sequences never share one; those without a sequence are the model's, and the same from any process. ``norms`` are
    those that feed a site, by site. ``slices=False`` leaves out the hidden states and keeps their peaks.
    ``codecs``: of sites, by name, and of ``peaks``, where they are not the default ones.
    """
    whole = {name: dimensions.size(name) for name in ("layer", "sequence", "position", "feature", "rank", "expert")}

    def array(
        name: str,
        dims: Sequence[str],
        dtype: np.dtype[Any],
        fill: int | float,
        single: Sequence[str],
        codec: str = COMMON,
        **attributes: str | bool,
    ) -> ArraySpec:
        chunk = {dim: 1 if dim in single else whole[dim] for dim in dims}
        if "position" in dims and "position" not in single:
            bytes_per_position = math.prod(chunk.values()) // whole["position"] * dtype.itemsize
            chunk["position"] = max(1, min(whole["position"], MAX_CHUNK_BYTES // bytes_per_position))
        return ArraySpec(
            name,
            tuple(dims),
            tuple(whole[dim] for dim in dims),
            tuple(chunk[dim] for dim in dims),
            dtype,
            fill,
            tuple(attributes.items()),
            codec,
        )

    bits = {"bits": encoding.name}
    nan = float("nan")
    chosen = codecs or {}
    peaks = chosen.get(PEAKS) or default_codec(PEAKS, encoding.name)
    specs: list[ArraySpec] = []
    for site in sites:
        if slices:
            specs.append(
                array(
                    site,
                    ("layer", "sequence", "position", "feature"),
                    encoding.stored,
                    encoding.fill,
                    ("layer", "sequence"),
                    chosen.get(site) or default_codec(site, encoding.name),
                    **bits,
                )
            )
        specs += [
            array(
                layer_peak_name(site),
                ("layer", "sequence", "feature"),
                encoding.stored,
                encoding.fill,
                ("layer", "sequence"),
                peaks,
                **bits,
                sign_cleared=True,
                maximum_over="position",
            ),
            array(
                position_peak_name(site),
                ("sequence", "position", "feature"),
                encoding.stored,
                encoding.fill,
                ("sequence",),
                peaks,
                **bits,
                sign_cleared=True,
                maximum_over="layer",
            ),
            array(nonfinite_name(site), ("layer", "sequence"), np.dtype("uint64"), 0, ("sequence",)),
        ]
        norm = (norms or {}).get(site)
        if norm is not None and norm.kind is not None:
            token, feature = ("layer", "sequence", "position"), ("layer", "feature")
            specs += [
                array(norm_array_name(site, quantity), token, np.dtype("float32"), nan, ("sequence",))
                for quantity in NORM_STATISTICS[norm.kind]
            ]
            specs += [
                array(norm_array_name(site, quantity), feature, np.dtype("float32"), nan, ("layer",))
                for quantity in ("gain", *(["bias"] if norm.bias else []))
            ]
    if dimensions.ranks:
        ranks = ("layer", "sequence", "position", "rank")
        specs += [
            array("expert_id", ranks, np.dtype("uint16"), NO_EXPERT, ("sequence",)),
            array("expert_weight", ranks, np.dtype("float32"), nan, ("sequence",)),
        ]
    if dimensions.experts:
        experts = ("layer", "sequence", "expert")
        specs.append(array("expert_peak", experts, np.dtype("float32"), nan, ("sequence",), maximum_over="position"))
    specs += [
        array("token_id", ("sequence", "position"), np.dtype("int32"), -1, ("sequence",)),
        array("token_nll", ("sequence", "position"), np.dtype("float32"), nan, ("sequence",), units="nat"),
        array("token_mask", ("sequence", "position"), np.dtype("uint8"), 0, ("sequence",)),
        array("committed", ("layer", "sequence"), np.dtype("uint8"), 0, ("sequence",)),
    ]
    return tuple(specs)
