"""Flags about passes over the slices: what they may use, and what they do about damage."""

from __future__ import annotations

import argparse

from analyze.resources import Resources

__all__ = ["add_pass_flags", "resources_of"]


def add_pass_flags(parser: argparse.ArgumentParser) -> None:
    """Add them, in a group of their own."""
    add = parser.add_argument_group("passes over the slices").add_argument
    add(
        "--memory-limit",
        metavar="SIZE",
        help="memory of this process: 4GB, 512MiB (default: a quarter of the machine's)",
    )
    add(
        "--scheduler",
        metavar="ADDRESS|FILE",
        help="a Dask cluster to compute on (default: DASK_SCHEDULER_ADDRESS, else threads); its workers read the "
        "store. Not asked where the answer was kept",
    )
    add(
        "--skip-corrupt",
        action="store_true",
        help="leave out cells whose chunks are damaged or missing, and say so in the answer",
    )
    add("--no-cache", action="store_true", help="neither use nor keep results of passes over the same store")


def resources_of(arguments: argparse.Namespace) -> Resources:
    """What the flags say; raises InputError for a size that is none or taken already, or no scheduler's address.

    So that what cannot be is refused also where the answer was kept, and takes no pass.
    """
    from analyze.memory import bytes_text, limit_text, parse_bytes, resident_bytes
    from analyze.statistics.cluster import scheduler_address
    from schemas.errors import InputError

    limit = None if arguments.memory_limit is None else parse_bytes(arguments.memory_limit)
    if limit is not None and limit < (taken := resident_bytes()):
        raise InputError(
            f"--memory-limit {limit_text(limit)} is too small: Python and its libraries have taken {bytes_text(taken)} "
            "before any pass. Give more, for example 1GB"
        )
    if arguments.scheduler is not None:
        scheduler_address(arguments.scheduler)
    return Resources(
        memory_limit=limit,
        scheduler=arguments.scheduler,
        skip_corrupt=arguments.skip_corrupt,
        cache=not arguments.no_cache,
    )
