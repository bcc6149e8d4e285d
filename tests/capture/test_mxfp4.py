"""MXFP4 by table: transformers' own values for every scale and byte, in its layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from capture.weights.mxfp4 import mxfp4_table
from capture.weights.reading import same_bits

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_pairs_of_scale_and_byte(dtype: torch.dtype) -> None:
    """One row for each scale, its 16 blocks holding all bytes; against the routine, one scale at a time."""
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(256, 16, 16).contiguous()
    scales = torch.arange(256, dtype=torch.uint8).view(256, 1).expand(256, 16).contiguous()
    into = torch.empty(512, 256, dtype=dtype)
    mxfp4_table(dtype).unpack(blocks, scales, into)
    for scale in range(256):
        alone = convert_moe_packed_tensors(
            blocks[scale : scale + 1, None].transpose(0, 1),
            scales[scale : scale + 1, None].transpose(0, 1),
            dtype=dtype,
        )
        assert same_bits(into[:, scale : scale + 1], alone[0]), scale


def test_the_values_by_definition() -> None:
    """Sign, two bits of exponent, one of mantissa; times two to the power of scale - 127."""
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    halves = np.concatenate([magnitudes, -magnitudes])
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    for scale in (100, 127, 130):
        into = torch.empty(512, 1)
        mxfp4_table(torch.float32).unpack(blocks, torch.full((1, 16), scale, dtype=torch.uint8), into)
        bytes_ = np.arange(256)
        expected = np.stack([halves[bytes_ % 16], halves[bytes_ // 16]], axis=1).reshape(-1) * 2.0 ** (scale - 127)
        np.testing.assert_array_equal(into[:, 0].numpy(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_into_a_part_of_an_expert(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (2, 10, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(0, 256, (2, 10, 3), dtype=torch.uint8, generator=generator)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=dtype)
    into = torch.zeros_like(expected)
    table = mxfp4_table(dtype)
    for expert in range(2):
        for first, last in ((0, 7), (7, 10)):
            table.unpack(blocks[expert, first:last], scales[expert, first:last], into[expert, :, first:last])
    assert same_bits(into, expected)
