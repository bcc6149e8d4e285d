"""The one place that knows about accelerators: which device runs the model, and what memory it has."""

from __future__ import annotations

import contextlib

import torch

from schemas.errors import InputError

__all__ = ["available_memory_bytes", "choose_device", "device_name", "synchronise"]


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
        return device
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


def available_memory_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on ``device``; None where nothing tells."""
    if device.type == "cpu":
        with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as stream:
            fields = dict(line.split(":", 1) for line in stream)
            return int(fields["MemAvailable"].split()[0]) * 1024
        import psutil  # a dependency of accelerate; the portable way where /proc is not

        return int(psutil.virtual_memory().available)
    tell = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return None if tell is None else int(tell(device)[0])


def synchronise(device: torch.device) -> None:
    """Wait until all work queued on ``device`` is done; returns at once on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
