"""Quantised checkpoints that are read: their weights are dequantised as transformers does it. A new one is a row here.

Its native kernels are never used: they exist for some devices only, and bypass modules whose inputs are captured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

__all__ = ["READABLE", "dequantising", "uneven_blocks"]

READABLE: Mapping[str, str] = MappingProxyType({"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"})
"""``quant_method`` in config.json, and transformers' class for it, which can be told to dequantise."""


def dequantising(method: str) -> Any:
    """transformers' configuration that dequantises weights of ``method``, of those in ``READABLE``, on loading."""
    import transformers

    return getattr(transformers, READABLE[method])(dequantize=True)


def uneven_blocks(config: Any, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Which float8 weight of ``shapes`` ends amid one of the blocks that ``config`` declares, in words; None if none.

    transformers' dequantisation takes the size of a block from the number of scales, as if all were equal: it would
    give the scale of one block to a part of the next.
    """
    quantisation = getattr(config, "quantization_config", None) or {}
    settings = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
    block = settings.get("weight_block_size")
    if settings.get("quant_method") != "fp8" or not block:
        return None
    for name, scales in shapes.items():
        weight = shapes.get(name.removesuffix("_scale_inv"), ())
        if not name.endswith("_scale_inv") or len(scales) < 2 or len(weight) < 2:
            continue
        for size, step, count in zip(weight[-2:], block, scales[-2:], strict=True):
            if count > 1 and size < count * step and count == -(-size // step):
                return (
                    f"float8 blocks of {list(block)} do not divide its shape {list(weight)}, which transformers "
                    "dequantises wrongly; use the checkpoint it was made from"
                )
    return None
