"""What the limits of a container, or of a job on a cluster, leave of the host's memory: control groups of Linux."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["container_memory_bytes"]

ROOT = Path("/")


@dataclass(frozen=True)
class _Version:
    """What one version of control groups calls its memory controller, its folder, and the files in each group."""

    controller: str
    mount: str
    limit: str
    used: str
    pages: tuple[str, str]
    """Of memory.stat: the pages of files in what is used."""


VERSIONS = (
    _Version("", "sys/fs/cgroup", "memory.max", "memory.current", ("active_file", "inactive_file")),
    _Version(
        "memory",
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
)


def container_memory_bytes(root: Path = ROOT) -> list[int]:
    """What each limit above this process leaves it; empty where there is none.

    Every group above counts: Slurm limits a job and not the step in it. Pages of files count as free: the system takes
    them back where memory is asked for, and a checkpoint that was read fills a container with them.
    """
    left: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path(root, "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            for version in VERSIONS:
                if version.controller in controllers.split(","):
                    left += _left(Path(root, version.mount), group, version)
    return left


def _left(mount: Path, group: str, version: _Version) -> Iterator[int]:
    """What the limits of ``group`` and of those above it leave; within a container only the last may be there."""
    folder = Path(mount, group.lstrip("/"))
    for each in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):  # no such group here, or its limit is "max"
            limit, used = (int((each / name).read_text()) for name in (version.limit, version.used))
            held = dict(line.split() for line in (each / "memory.stat").read_text().splitlines())
            yield max(0, limit - used + sum(int(held[name]) for name in version.pages if name in held))
        if each == mount:
            return
