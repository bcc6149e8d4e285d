"""What a finished capture prints: what the store holds, how large it is, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from capture.plan import human_bytes, windows_in_words
from schemas.layout import nonfinite_name
from schemas.perplexity import Perplexity, perplexity
from schemas.retention import WHOLE
from schemas.run import Run, store_bytes

__all__ = ["summarise"]


def summarise(store: Path, seconds: float, computed: int) -> str:
    """The store as lines of text; ``computed`` sequences took ``seconds`` of this run."""
    run = Run(store)
    d = run.dimensions
    raw = sum(run.array(name).nbytes for name in run.group.array_keys())
    size = store_bytes(store)
    lines = [
        f"tokens       {d.sequences * d.positions:,} ({windows_in_words(d)})",
        f"raw          {human_bytes(raw)}",
        f"compressed   {human_bytes(size)} (ratio {size / raw:.3f})",
        f"seconds      {seconds:.1f}" + ("" if computed else " (nothing to compute)"),
        f"perplexity   {_perplexity(perplexity(run.read('token_nll')))}",
    ]
    if run.retention != WHOLE:
        lines.insert(1, f"keep         {run.retention}")
    bad = {site: run.read(nonfinite_name(site)) for site in run.info.stored_sites}
    total = sum(int(counts.sum()) for counts in bad.values())
    if total:
        worst = _worst_cells(bad)
        lines.append(f"non-finite   {total:,} values are NaN or infinite, most in {worst}")
    else:
        lines.append("non-finite   none")
    command = shlex.join(["analyze", "--store", str(store), "--magnitude", "6"])
    return "\n".join([*lines, f"store        {store}", f"next         {command}"])


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
