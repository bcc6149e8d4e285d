"""The one place that knows about accelerators: which device runs the model, and what memory it has."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from schemas.errors import InputError

__all__ = ["available_memory_bytes", "choose_device", "copied_aside", "device_name", "moment", "staging_buffer"]


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
        import psutil  # a dependency of accelerate

        return min([int(psutil.virtual_memory().available), *_container_memory_bytes()])
    tell = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return None if tell is None else int(tell(device)[0])


def _container_memory_bytes() -> list[int]:
    """What is left of a container's memory limit (cgroup v2); empty where there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text().strip().rsplit(":", 1)[-1].lstrip("/")
        for folder in (Path("/sys/fs/cgroup", group), Path("/sys/fs/cgroup")):
            if (folder / "memory.max").is_file():
                limit = (folder / "memory.max").read_text().strip()
                used = int((folder / "memory.current").read_text())
                return [] if limit == "max" else [max(0, int(limit) - used)]
    return []


def staging_buffer(size_bytes: int, device: torch.device) -> torch.Tensor | None:
    """Host memory from which ``device`` copies at full speed; None where the device's own is the host's."""
    if device.type == "cpu":
        return None
    return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=device.type != "mps")


def moment(device: torch.device) -> Any:
    """What was asked of ``device`` up to now, for ``copied_aside`` to wait for; None on a CPU, where it is done."""
    return None if device.type == "cpu" else torch.accelerator.current_stream(device).record_event()


def copied_aside(target: torch.Tensor, source: torch.Tensor, after: Any) -> None:
    """Copy ``source``, in host memory, to ``target`` on an accelerator, beside what it computes and after ``after``.

    It is there when this returns: only this thread waits.
    """
    aside = torch.Stream(device=target.device)
    if after is not None:
        aside.wait_event(after)
    with aside:
        target.copy_(source, non_blocking=True)
    aside.synchronize()
