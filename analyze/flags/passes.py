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
        help="a Dask cluster to compute on (default: DASK_SCHEDULER_ADDRESS, else threads); its workers read the store",
    )
    add(
        "--skip-corrupt",
        action="store_true",
        help="leave out cells whose chunks are damaged or missing, and say so in the answer",
    )
    add("--no-cache", action="store_true", help="neither use nor keep results of passes over the same store")


def resources_of(arguments: argparse.Namespace) -> Resources:
    """What the flags say; raises InputError for a size that is none."""
    from analyze.memory import parse_bytes

    limit = arguments.memory_limit
    return Resources(
        memory_limit=None if limit is None else parse_bytes(limit),
        scheduler=arguments.scheduler,
        skip_corrupt=arguments.skip_corrupt,
        cache=not arguments.no_cache,
    )
