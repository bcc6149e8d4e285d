"""Host memory for tensors that wait to be written, used again and again.

Fresh memory costs a page fault for every 4 KiB, which takes longer than the copy into it; pinned memory, which
accelerators copy to, much more.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from capture.device import copied_to_host, host_memory

__all__ = ["HostBuffers", "HostCopy"]


@dataclass(frozen=True)
class HostCopy:
    """A copy in host memory, complete once ``arrived`` has returned; any thread may wait for it."""

    tensor: torch.Tensor
    arrived: Callable[[], None]


class HostBuffers:
    """Copies of tensors in host memory; what is given back holds the next of the same shape and dtype.

    As many are held as were in use at once of each shape and dtype: a run has few. One thread may copy while others
    give back.
    """

    def __init__(self) -> None:
        """No memory is held until something is given back."""
        self._free: defaultdict[tuple[torch.Size, torch.dtype], list[torch.Tensor]] = defaultdict(list)

    def copy(self, values: torch.Tensor) -> HostCopy:
        """A contiguous copy of ``values``, which may change at once, until its tensor is given back."""
        buffer = self._buffer(values)
        return HostCopy(buffer, copied_to_host(buffer, values))

    def _buffer(self, values: torch.Tensor) -> torch.Tensor:
        with contextlib.suppress(IndexError):
            # The last given back: its memory is the likeliest to be in a cache.
            return self._free[values.shape, values.dtype].pop()
        return host_memory(tuple(values.shape), values.dtype, values.device)

    def give_back(self, buffer: torch.Tensor) -> None:
        """Let a later ``copy`` overwrite ``buffer``, which nobody else holds."""
        self._free[buffer.shape, buffer.dtype].append(buffer)
