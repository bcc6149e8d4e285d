"""MXFP4 unpacked by table: each byte holds two values, which share a scale with the rest of their block of 32.

The table has an entry for every pair of scale and byte, made by transformers' own routine, so its values are that
routine's bit for bit, the infinite and subnormal ones too. Reading it takes a twentieth of the routine's time.
"""

from __future__ import annotations

import threading

import torch

__all__ = ["Mxfp4Table", "mxfp4_table"]

PAIRS = 2**16
WIDE = {2: torch.int32, 4: torch.int64}
"""An integer dtype for two values of so many bytes."""


class Mxfp4Table:
    """Two values for each ``scale * 256 + byte``: ``values`` is (65536, 2), the low half of the byte first."""

    def __init__(self, values: torch.Tensor) -> None:
        self._dtype = values.dtype
        self._pairs = values.contiguous().view(WIDE[values.element_size()]).reshape(PAIRS)
        self._memory = threading.local()

    def unpack(self, blocks: torch.Tensor, scales: torch.Tensor, into: torch.Tensor) -> None:
        """Write the values of ``blocks`` (rows, groups, 16) with ``scales`` (rows, groups), both uint8, to ``into``.

        That is (groups * 32, rows): transposed, as transformers keeps it. Memory for the work is kept, per thread.
        """
        rows, groups, _ = blocks.shape
        count = blocks.numel()
        index, pairs = self._work(count)
        wanted = index.view(rows, groups, 16)
        wanted.copy_(scales.unsqueeze(-1).expand_as(wanted))
        wanted.mul_(256).add_(blocks)
        torch.index_select(self._pairs, 0, index, out=pairs)
        into.copy_(pairs.view(self._dtype).view(rows, groups * 32).T)

    def _work(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        held = getattr(self._memory, "held", None)
        if held is None or held[0].numel() < count:
            held = torch.empty(count, dtype=torch.int32), torch.empty(count, dtype=self._pairs.dtype)
            self._memory.held = held
        return held[0][:count], held[1][:count]


def mxfp4_table(dtype: torch.dtype) -> Mxfp4Table:
    """The table of ``dtype``, of transformers' making."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    bytes_ = torch.arange(256, dtype=torch.uint8)
    blocks = bytes_.reshape(1, 1, 16, 16).expand(1, 256, 16, 16)  # a row of 16 groups for every scale
    scales = bytes_.reshape(1, 256, 1).expand(1, 256, 16)
    unpacked = convert_moe_packed_tensors(blocks, scales, dtype=dtype)  # (1, 16 groups of 32, 256 rows)
    return Mxfp4Table(unpacked[0].T.reshape(PAIRS, 2))
