"""How arrays are compressed: the codecs that a store may have, and which of them each kind of array has by default.

All are Blosc, followed by crc32c; a name tells Blosc's compressor, its level and its shuffle. Which is best depends on
what is compressed, and was measured (docs/decisions/037-codec-per-site.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

__all__ = ["CODECS", "COMMON", "DEFAULTS", "PEAKS", "Codec", "codec_name", "codecs_of", "default_codec"]


@dataclass(frozen=True)
class Codec:
    """One way to set Blosc."""

    compressor: Literal["lz4", "zstd"]
    level: int
    shuffle: Literal["bitshuffle", "shuffle"]

    def __str__(self) -> str:
        """``lz4-5-bitshuffle``."""
        return f"{self.compressor}-{self.level}-{self.shuffle}"


_LEVELS: dict[Literal["lz4", "zstd"], tuple[int, ...]] = {"lz4": (1, 5, 9), "zstd": (1, 3, 5)}
_SHUFFLES: tuple[Literal["bitshuffle", "shuffle"], ...] = ("bitshuffle", "shuffle")

CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        str(codec): codec
        for codec in (Codec(name, level, s) for name, levels in _LEVELS.items() for level in levels for s in _SHUFFLES)
    }
)
"""All that a store may have, by name."""

COMMON = "lz4-5-bitshuffle"
"""Of every array that is small."""

PEAKS = "peaks"
"""What peaks of all sites are called where codecs are named."""

DEFAULTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "bfloat16": MappingProxyType({"residual": "zstd-1-shuffle"}),
        "float16": MappingProxyType({"residual": "zstd-3-shuffle"}),
        "float32": MappingProxyType({}),
    }
)
"""Encoding -> site or ``peaks`` -> codec, where another one than ``COMMON`` is best."""


def default_codec(kind: str, encoding: str) -> str:
    """The codec of a site's slices, or of ``peaks``, in that encoding."""
    return DEFAULTS[encoding].get(kind, COMMON)


def codecs_of(codec: str, itemsize: int) -> dict[str, Any]:
    """What zarr-python takes to create an array of items of that size, all stated and nothing left to its defaults."""
    chosen = CODECS[codec]
    return {
        "serializer": BytesCodec(endian="little") if itemsize > 1 else BytesCodec(endian=None),
        "compressors": [
            BloscCodec(
                cname=chosen.compressor, clevel=chosen.level, shuffle=chosen.shuffle, typesize=itemsize, blocksize=0
            ),
            Crc32cCodec(),
        ],
    }


def codec_name(array: zarr.Array[Any]) -> str | None:
    """The name of what ``array`` is compressed with, by its metadata; None where that is none of ours."""
    for codec in array.metadata.codecs:  # type: ignore[union-attr]
        if isinstance(codec, BloscCodec):
            name = f"{codec.cname.value}-{codec.clevel}-{codec.shuffle.value}"
            return name if name in CODECS else None
    return None
