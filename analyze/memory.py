"""How much memory there is, how much this process has taken, and limits as people write them."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

from analyze.quantities import counted
from schemas.errors import InputError

__all__ = ["bytes_text", "default_memory_limit", "limit_text", "machine_bytes", "parse_bytes", "resident_bytes"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SHARE_OF_MACHINE = 4
_UNKNOWN_MACHINE = 8 * 2**30


def default_memory_limit() -> int:
    """A quarter of the machine's memory, in bytes."""
    return machine_bytes() // _SHARE_OF_MACHINE


def machine_bytes() -> int:
    """Memory of this machine, or of the container if that may use less; 8 GiB where the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
        found.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text().strip().rsplit(":", 1)[-1].lstrip("/")
        for folder in (Path("/sys/fs/cgroup", group), Path("/sys/fs/cgroup")):
            with contextlib.suppress(OSError, ValueError):
                found.append(int((folder / "memory.max").read_text()))  # "max" where there is no limit
    if not found and sys.platform == "darwin":
        import os

        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=_UNKNOWN_MACHINE)


def resident_bytes() -> int:
    """What this process holds in memory now; 256 MiB where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        import resource

        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return 256 * 2**20


def parse_bytes(text: str, flag: str = "--memory-limit") -> int:
    """Bytes of ``4GB``, ``512MiB``, ``1.5g`` or a plain number; raises InputError for anything else.

    >>> parse_bytes("1.5 GB"), parse_bytes("512MiB")
    (1500000000, 536870912)
    """
    form = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgt]?i?)b?\s*", text.lower())
    if form is None or form[2] == "i" or len(text) > 40:
        raise InputError(f"{flag} {text!r} is no amount of memory: write it as 4GB or 512MiB")
    amount = int(float(form[1]) * _UNITS[form[2]])
    if amount <= 0:
        raise InputError(f"{flag} {text!r} is no memory at all: write it as 4GB or 512MiB")
    return amount


def limit_text(amount: int) -> str:
    """A limit as it was probably typed: exactly, in the largest unit that takes no more than two decimals.

    >>> limit_text(1000), limit_text(512 * 2**20), limit_text(1_500_000_000), limit_text(1_234_567)
    ('1 KB', '512 MiB', '1.5 GB', '1,234,567 bytes')
    """
    for unit in sorted(filter(None, _UNITS), key=lambda name: -_UNITS[name]):
        hundredths, rest = divmod(amount * 100, _UNITS[unit])
        if hundredths >= 100 and not rest:
            return f"{hundredths / 100:.10g} {unit[0].upper()}{unit[1:]}B"
    return counted(amount, "byte")


def bytes_text(amount: int) -> str:
    """``3.2 GB``, rounded up so that what it says is enough.

    >>> bytes_text(1_500_000_001), bytes_text(12_000_000)
    ('1.6 GB', '12 MB')
    """
    if amount >= 10**9:
        return f"{-(-amount // 10**8) / 10:.1f} GB"
    return f"{-(-amount // 10**6):,} MB"
