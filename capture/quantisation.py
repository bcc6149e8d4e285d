"""Quantised checkpoints that are read: their weights are dequantised as transformers does it. A new one is a row here.

Its native kernels are never used: they exist for some devices only, and bypass modules whose inputs are captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["READABLE", "dequantising"]

READABLE: Mapping[str, str] = MappingProxyType({"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"})
"""``quant_method`` in config.json, and transformers' class for it, which can be told to dequantise."""


def dequantising(method: str) -> Any:
    """transformers' configuration that dequantises weights of ``method``, of those in ``READABLE``, on loading."""
    import transformers

    return getattr(transformers, READABLE[method])(dequantize=True)
