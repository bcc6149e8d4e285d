"""What a finished capture prints: what the store holds, how large it is, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from capture.part import Part
from capture.plan import human_bytes, windows_in_words
from schemas.layout import nonfinite_name
from schemas.perplexity import Perplexity, perplexity
from schemas.retention import WHOLE
from schemas.run import Run, store_bytes

__all__ = ["summarise"]

_SWEEP = "2:7:1"
"""Magnitudes to look at first: whether 6 counts anything depends on the model, and the others say how nearly."""


def summarise(store: Path, seconds: float, computed: int, part: Part) -> str:
    """The store as lines of text; ``computed`` sequences of ``part`` took ``seconds`` of this run.

    Where other parts are still to be filled, what is told is of the complete sequences alone.
    """
    run = Run(store)
    d = run.dimensions
    complete = run.complete_sequences()
    finished = len(complete) == d.sequences
    raw = sum(run.array(name).nbytes for name in run.group.array_keys()) * len(complete) // d.sequences
    size = store_bytes(store)
    of, count = ("", "") if finished else (f"of {d.sequences * d.positions:,} ", f"{len(complete)} of ")
    ratio = f" (ratio {size / raw:.3f})" if finished else ", unfinished sequences included"
    lines = [
        f"tokens       {len(complete) * d.positions:,} {of}({count}{windows_in_words(d)})",
        f"raw          {human_bytes(raw)}",
        f"compressed   {human_bytes(size)}{ratio}",
        f"seconds      {seconds:.1f}" + ("" if computed else " (nothing to compute)"),
        f"perplexity   {_perplexity(perplexity(run.read('token_nll')[complete]))}",
    ]
    if not part.is_whole:
        lines.insert(0, f"part         sequences {part}")
    if run.retention != WHOLE:
        lines.insert(len(lines) - 4, f"keep         {run.retention}")
    bad = {site: run.read(nonfinite_name(site))[:, complete] for site in run.info.stored_sites}
    total = sum(int(counts.sum()) for counts in bad.values())
    if total:
        worst = _worst_cells(bad)
        lines.append(f"non-finite   {total:,} values are NaN or infinite, most in {worst}")
    else:
        lines.append("non-finite   none")
    analyze = shlex.join(["analyze", "--store", str(store), "--magnitude", _SWEEP])
    command = analyze if finished else run.finishing_command()
    rest = "" if finished else " (all that is missing; or other parts of it)"
    return "\n".join([*lines, f"store        {store}", f"next         {command}{rest}"])


def _perplexity(found: Perplexity) -> str:
    if not found.losses:
        return "none (one position has no next token)"
    if found.value is None:
        return f"none ({found.nonfinite_losses:,} of {found.losses:,} losses are NaN or infinite)"
    return f"{found.value:.2f}"


def _worst_cells(counts: Mapping[str, npt.NDArray[Any]], most: int = 3) -> str:
    cells = sorted(
        (
            (int(total), f"{site} layer {layer} ({int(total):,})")
            for site, held in counts.items()
            for layer, total in enumerate(held.sum(axis=1))
            if total
        ),
        key=lambda cell: -cell[0],
    )
    return ", ".join(label for _, label in cells[:most])
