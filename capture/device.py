"""The one place that knows about accelerators: which device runs the model, what memory it has, how to copy to and fro.

Copies between host and device go through pinned host memory on a stream of their own, so that the model computes
meanwhile. Where a backend has no such streams (MPS), a copy waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from capture.container import container_memory_bytes
from schemas.errors import InputError

__all__ = [
    "available_memory_bytes",
    "choose_device",
    "copied_aside",
    "copied_to_host",
    "device_name",
    "devices_of",
    "host_memory",
    "moment",
    "staging_buffer",
]

STREAMING = ("cuda", "xpu")
"""Backends with streams and pinned memory: NVIDIA and AMD, Intel."""


def choose_device(requested: str) -> torch.device:
    """The device for ``--device``: ``auto`` takes the accelerator that torch reports, else the CPU.

    Raises InputError for a device that is unknown or absent.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if requested == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        raise InputError(f"--device {requested}: unknown; use auto, cpu, or an accelerator such as cuda") from None
    if device.type == "cpu":
        if device.index:
            raise InputError(f"--device {requested}: the processors are one device; use --device cpu")
        return torch.device("cpu")
    if accelerator is None or device.type != accelerator.type:
        there = accelerator.type if accelerator else "none"
        raise InputError(f"--device {requested}: not available here (accelerator: {there}); use --device cpu")
    if device.index is not None and device.index >= torch.accelerator.device_count():
        raise InputError(f"--device {requested}: there are {torch.accelerator.device_count()} of that kind here")
    return device


def device_name(device: torch.device) -> str | None:
    """The accelerator's product name where its backend tells it; None for a CPU."""
    tell = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return None if tell is None or device.type == "cpu" else str(tell(device))


def devices_of(device: torch.device) -> list[torch.device]:
    """The devices that a whole model may be spread over: all of that kind, unless ``device`` names one of them."""
    if device.type == "cpu" or device.index is not None:
        return [device]
    return [torch.device(device.type, index) for index in range(torch.accelerator.device_count())]


def available_memory_bytes(*devices: torch.device) -> int | None:
    """Bytes that can still be allocated on ``devices`` together; None where one of them does not tell."""
    told = [_available_bytes(device) for device in devices]
    return None if None in told else sum(count for count in told if count is not None)


def _available_bytes(device: torch.device) -> int | None:
    if device.type == "cpu":
        import psutil  # a dependency of accelerate

        return min([int(psutil.virtual_memory().available), *container_memory_bytes()])
    tell = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return None if tell is None else int(tell(device)[0])


def staging_buffer(size_bytes: int, device: torch.device) -> torch.Tensor | None:
    """Host memory from which ``device`` copies at full speed; None where the device's own is the host's."""
    if device.type == "cpu":
        return None
    return host_memory((size_bytes,), torch.uint8, device)


def host_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Uninitialised host memory that ``device`` copies to and from at full speed."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type in STREAMING)


def moment(device: torch.device) -> Any:
    """What was asked of ``device`` up to now, for ``copied_aside`` to wait for; None where a copy waits anyway."""
    return None if device.type not in STREAMING else torch.accelerator.current_stream(device).record_event()


def copied_aside(target: torch.Tensor, source: torch.Tensor, after: Any) -> None:
    """Copy ``source``, in host memory, to ``target`` on an accelerator, beside what it computes and after ``after``.

    It is there when this returns: only this thread waits.
    """
    if target.device.type not in STREAMING:
        target.copy_(source)
        return
    aside = torch.Stream(device=target.device)
    if after is not None:
        aside.wait_event(after)
    with aside:
        target.copy_(source, non_blocking=True)
    aside.synchronize()


def copied_to_host(target: torch.Tensor, source: torch.Tensor) -> Callable[[], None]:
    """Copy ``source``, on any device, to ``target``, of ``host_memory``; what is returned waits until it is there.

    ``source`` may change as soon as this returns. On an accelerator it is first copied where it lies, in turn with what
    the model computes, and brought over beside that: only who waits does.
    """
    if source.device.type not in STREAMING:
        target.copy_(source)
        return _nothing
    kept = source.clone()
    aside = torch.Stream(device=source.device)
    aside.wait_event(moment(source.device))
    with aside:
        target.copy_(kept, non_blocking=True)
        arrived = aside.record_event()
    kept.record_stream(aside)  # its memory is not used again before the copy is done
    return lambda: arrived.synchronize()


def _nothing() -> None:
    """Wait for nothing."""
