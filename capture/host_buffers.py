"""Host memory for tensors that wait to be written, used again and again.

Fresh memory costs a page fault for every 4 KiB, which takes longer than the copy into it.
"""

from __future__ import annotations

import torch

__all__ = ["HostBuffers"]


class HostBuffers:
    """Copies of tensors in host memory; what is given back holds the next of the same shape and dtype.

    As many are held as were in use at once. One thread may copy while others give back.
    """

    def __init__(self) -> None:
        """No memory is held until something is given back."""
        self._free: list[torch.Tensor] = []

    def copy(self, values: torch.Tensor) -> torch.Tensor:
        """A contiguous copy of ``values`` on the CPU, until it is given back."""
        while self._free:
            buffer = self._free.pop()  # the last given back: its memory is the likeliest to be in a cache
            if buffer.shape == values.shape and buffer.dtype == values.dtype:
                return buffer.copy_(values)
        return torch.empty(values.shape, dtype=values.dtype).copy_(values)

    def give_back(self, buffer: torch.Tensor) -> None:
        """Let a later ``copy`` overwrite ``buffer``, which nobody else holds."""
        self._free.append(buffer)
