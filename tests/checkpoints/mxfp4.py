"""MXFP4 as GPT-OSS checkpoints have it: blocks of 32 E2M1 values that share a power of two."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

E2M1_MAGNITUDES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=np.float32)
BLOCK = 32
SCALE_BIAS = 127


def encode_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks `(experts, out, in / 32, 16)` and scales `(experts, out, in / 32)`, both uint8, of an in-memory weight.

    `weight` is `(experts, in, out)`, as the model multiplies it. The shared exponent is `floor(log2 amax) - 2`, values
    go to the nearest E2M1 magnitude (ties to the smaller) and saturate at 6; the low nibble of a byte comes first.
    """
    rows = weight.transpose(1, 2).float().numpy()
    values = rows.reshape(*rows.shape[:2], -1, BLOCK)
    peak = np.abs(values).max(axis=-1, keepdims=True)
    exponent = np.floor(np.log2(np.maximum(peak, np.float32(2.0**-100)))) - 2
    scaled = np.abs(values) / np.exp2(exponent)
    code = np.abs(scaled[..., None] - E2M1_MAGNITUDES).argmin(axis=-1)
    nibbles = (code + 8 * (values < 0)).astype(np.uint8)
    blocks = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
    scales = (exponent[..., 0] + SCALE_BIAS).astype(np.uint8)
    return torch.from_numpy(blocks), torch.from_numpy(scales)
