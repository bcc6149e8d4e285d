"""Quantised checkpoints that are read: their weights are dequantised as transformers does it. A new one is a row here.

Its native kernels are never used: they exist for some devices only, and bypass modules whose inputs are captured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

__all__ = ["READABLE", "dequantising", "foreign_dtype", "uneven_blocks"]

READABLE: Mapping[str, str] = MappingProxyType({"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"})
"""``quant_method`` in config.json, and transformers' class for it, which can be told to dequantise."""

UNQUANTISED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

PACKED: Mapping[str, Mapping[str, tuple[torch.dtype, ...]]] = MappingProxyType(
    {
        "mxfp4": {r"_(blocks|scales)$": (torch.uint8,)},
        "fp8": {
            r"scale": (*UNQUANTISED, torch.float8_e8m0fnu, torch.uint8),
            r"": (*UNQUANTISED, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8),  # that one: pairs of 4-bit values
        },
    }
)
"""By ``quant_method``: what tensors of such names hold, the first expression that matches; all others are plain."""


def dequantising(method: str) -> Any:
    """transformers' configuration that dequantises weights of ``method``, of those in ``READABLE``, on loading."""
    import transformers

    return getattr(transformers, READABLE[method])(dequantize=True)


def foreign_dtype(method: str | None, dtypes: Mapping[str, torch.dtype]) -> tuple[str, str] | None:
    """(the first tensor, what is wrong with it) whose dtype is no weight's in a checkpoint of ``method``; else None.

    ``dtypes`` is of tensors that become floating parameters. transformers casts integers to such without a word, or
    leaves them integers.

    >>> foreign_dtype(None, {"a": torch.bfloat16, "b": torch.int32})
    ('b', 'it holds int32, and config.json names no quantisation that explains it')
    """
    rules = PACKED.get(method or "", {})
    for name, dtype in dtypes.items():
        known = next((held for pattern, held in rules.items() if re.search(pattern, name)), UNQUANTISED)
        if dtype in known:
            continue
        if method is None:
            return name, f"it holds {_word(dtype)}, and config.json names no quantisation that explains it"
        wanted = "a float that is no quantised one" if known is UNQUANTISED else " or ".join(map(_word, known))
        return name, f"it holds {_word(dtype)}, where {method} checkpoints have {wanted}"
    return None


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def uneven_blocks(config: Any, shapes: Mapping[str, Sequence[int]]) -> tuple[str, str] | None:
    """(the first float8 weight of ``shapes`` that ends amid one of the blocks that ``config`` declares, what is wrong
    with it); None if none.

    transformers' dequantisation takes the size of a block from the number of scales, as if all were equal: it would
    give the scale of one block to a part of the next.
    """
    quantisation = getattr(config, "quantization_config", None) or {}
    settings = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
    block = settings.get("weight_block_size")
    if settings.get("quant_method") != "fp8" or not block:
        return None
    for name, scales in shapes.items():
        of = name.removesuffix("_scale_inv")
        weight = shapes.get(of, ())
        if of == name or len(scales) < 2 or len(weight) < 2:
            continue
        for size, step, count in zip(weight[-2:], block, scales[-2:], strict=True):
            if count > 1 and size < count * step and count == -(-size // step):
                return of, (
                    f"float8 blocks of {list(block)} do not divide its shape {list(weight)}, which transformers "
                    "dequantises wrongly; use the checkpoint it was made from"
                )
    return None
