"""How fast a device multiplies matrices, measured for a moment."""

from __future__ import annotations

import time

import torch

__all__ = ["matmul_flops"]

SMALL, LARGE = (32, 1024), (128, 2048)
"""Tokens and features. The small product takes a CPU that computes float16 in software a quarter of a second."""
SECONDS = 0.05


def matmul_flops(device: torch.device, dtype: torch.dtype, seconds: float = SECONDS) -> float:
    """Floating point operations a second in products of a layer's size, at best within about ``seconds``."""
    for tokens, features in (SMALL, LARGE):
        operations = 2 * tokens * features**2
        best = _best_seconds(tokens, features, device, dtype, seconds)
        if best > seconds:
            break
    return operations / best


def _best_seconds(tokens: int, features: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    hidden = torch.ones(tokens, features, device=device, dtype=dtype)
    weights = torch.ones(features, features, device=device, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    with torch.inference_mode():
        (hidden @ weights)[0, 0].item()  # the first chooses a kernel; and this waits for an accelerator
        while True:
            started = time.perf_counter()
            (hidden @ weights)[0, 0].item()
            now = time.perf_counter()
            best = min(best, now - started)
            if now >= end:
                return best
