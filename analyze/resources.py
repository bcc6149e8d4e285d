"""What a pass over the slices may use, and what it does about damage: nothing here changes a digit of an answer."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

from schemas.errors import InputError

__all__ = ["DEFAULT_RESOURCES", "Resources", "whole"]


@dataclass(frozen=True)
class Resources:
    """``memory_limit`` in bytes; None is a quarter of the machine's. ``threads``: None is as many as processors.

    ``scheduler``: a Dask cluster's, by its address or a file that has it. ``skip_corrupt``: a cell of a sequence that
    cannot be read is left out, and the result says so. ``cache``: results of statistics are kept and used again.
    """

    memory_limit: int | None = None
    threads: int | None = None
    scheduler: str | None = None
    skip_corrupt: bool = False
    cache: bool = True

    def __post_init__(self) -> None:
        """Raise InputError for no threads or no memory, and for what is no number of them."""
        for name in ("memory_limit", "threads"):
            amount = getattr(self, name)
            if amount is not None and not isinstance(amount, Integral):
                raise InputError(f"{name}={amount!r} is no whole number: give one, or leave it out for the default")
            if amount is not None and amount < 1:
                raise InputError(f"{name}={amount} is too few: give at least 1, or leave it out for the default")
        if not isinstance(self.scheduler, str | None):
            raise InputError(
                f"scheduler={self.scheduler!r} is no address: write it as 'tcp://HOST:PORT', or a file's name"
            )

    @property
    def processors(self) -> int:
        """Threads to use here."""
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def options(self) -> dict[str, Any]:
        """The same as keyword arguments of ``measure``."""
        return asdict(self)


DEFAULT_RESOURCES = Resources()


def whole(resources: Resources) -> Resources:
    """The same, for an answer that has no way to say what it left out; raises InputError where damage is skipped."""
    if resources.skip_corrupt:
        raise InputError("--skip-corrupt goes with counts and criteria: this table must be of all the data")
    return resources
