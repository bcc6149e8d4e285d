"""Two buffers that hold two layers' weights in turn for the whole run: the one that computes and the one that is read.

The rule: a layer is read into a buffer that no layer uses. So at most two layers are loaded at any time, and the next
but one can be read as soon as the first is released. Fresh memory for each layer would cost more than reading it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from capture.device import copied_aside, moment, staging_buffer
from capture.weights.recipes import Target

__all__ = ["Arenas", "Layout"]

ALIGNMENT = 512
"""What torch's own memory has on an accelerator (a CPU's has 64): kernels may choose their way by it, and with it the
last bit of a sum."""


@dataclass(frozen=True)
class Layout:
    """Where each parameter of a layer lies in a buffer, and how large that is."""

    entries: tuple[tuple[Target, int], ...]
    size_bytes: int

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Layout:
        """One after the other, each aligned."""
        entries, end = [], 0
        for target in targets:
            entries.append((target, end))
            end += -(-math.prod(target.shape) * target.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        return cls(tuple(entries), end)

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters by name, contiguous, in ``buffer``, a tensor of bytes."""
        return {
            target.name: buffer[offset : offset + math.prod(target.shape) * target.dtype.itemsize]
            .view(target.dtype)
            .view(target.shape)
            for target, offset in self.entries
        }


@dataclass
class _Buffer:
    memory: torch.Tensor
    layer: int | None = None
    released: Any = None
    """The moment on the device at which the last layer's work was asked for; what comes later may overwrite it."""


class Arenas:
    """Two buffers of ``size_bytes`` on ``device``; for an accelerator, one in pinned host memory that is read into."""

    def __init__(self, size_bytes: int, device: torch.device) -> None:
        self._buffers = [_Buffer(torch.empty(size_bytes, dtype=torch.uint8, device=device)) for _ in range(2)]
        self._staging = staging_buffer(size_bytes, device)
        self._device = device
        self._lock = threading.Lock()

    def take(self, layer: int) -> torch.Tensor:
        """The host's memory to read ``layer`` into; RuntimeError where two other layers have not been released."""
        with self._lock:
            free = next((buffer for buffer in self._buffers if buffer.layer is None), None)
            if free is None:
                held = " and ".join(str(buffer.layer) for buffer in self._buffers)
                raise RuntimeError(f"layer {layer} is to be read, but layers {held} are loaded: release one first")
            free.layer = layer
        return free.memory if self._staging is None else self._staging

    def filled(self, layer: int, size_bytes: int) -> torch.Tensor:
        """The device's memory that holds what was read for ``layer``."""
        buffer = self._of(layer)
        if self._staging is not None:
            copied_aside(buffer.memory[:size_bytes], self._staging[:size_bytes], buffer.released)
        return buffer.memory

    def release(self, layer: int) -> None:
        """Let another layer be read into the buffer of ``layer``, if it has one."""
        with self._lock:
            for buffer in self._buffers:
                if buffer.layer == layer:
                    buffer.layer, buffer.released = None, moment(self._device)

    def _of(self, layer: int) -> _Buffer:
        return next(buffer for buffer in self._buffers if buffer.layer == layer)
