"""How fast a device multiplies matrices, measured for a moment."""

from __future__ import annotations

import time

import torch

__all__ = ["matmul_flops", "slower_than_float32"]

SMALL, LARGE = (32, 1024, 5), (128, 2048, 2)
"""Tokens, features, and products at least. The small one takes a CPU that computes float16 in software a quarter of a
second. By one product alone, two processors with six busy programs showed about a thirtieth of their speed in nine of
ten tries; by so many, the usual speed in all ten."""
SECONDS = 0.05


def matmul_flops(device: torch.device, dtype: torch.dtype, seconds: float = SECONDS) -> float:
    """Floating point operations a second in linear layers of a model's size, at best within about ``seconds``.

    By ``linear``, whose weights are (out, in), as models have them: on a CPU without bfloat16 instructions the product
    with weights the other way round took 60 times as long.
    """
    for tokens, features, least in (SMALL, LARGE):
        operations = 2 * tokens * features**2
        best = _best_seconds(tokens, features, least, device, dtype, seconds)
        if best > seconds:
            break
    return operations / best


def _best_seconds(
    tokens: int, features: int, least: int, device: torch.device, dtype: torch.dtype, seconds: float
) -> float:
    """Of one product, of ``least`` or as many as fit in ``seconds``: other programs may hold any one of them up."""
    hidden = torch.ones(tokens, features, device=device, dtype=dtype)
    weights = torch.ones(features, features, device=device, dtype=dtype)
    linear = torch.nn.functional.linear
    best, end, count = float("inf"), time.perf_counter() + seconds, 0
    with torch.inference_mode():
        linear(hidden, weights)[0, 0].item()  # the first chooses a kernel; and this waits for an accelerator
        while True:
            started = time.perf_counter()
            linear(hidden, weights)[0, 0].item()
            now = time.perf_counter()
            best, count = min(best, now - started), count + 1
            if now >= end and count >= least:
                return best


def slower_than_float32(device: torch.device, dtype: torch.dtype) -> float | None:
    """How many times slower ``device`` computes in ``dtype`` than in float32; None where that is less than twice.

    So it is on CPUs without instructions for 16-bit floats.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return None
    ratio = matmul_flops(device, torch.float32) / matmul_flops(device, dtype)
    return ratio if ratio >= 2 else None
