"""What a finished capture prints: what the store holds, how large it is, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capture.plan import human_bytes
from schemas.layout import nonfinite_name
from schemas.run import Run, store_bytes

__all__ = ["summarise"]


def summarise(store: Path, seconds: float, computed: int) -> str:
    """The store as lines of text; ``computed`` sequences took ``seconds`` of this run."""
    run = Run(store)
    d = run.dimensions
    raw = sum(run.array(name).nbytes for name in run.group.array_keys())
    size = store_bytes(store)
    lines = [
        f"tokens       {d.sequences * d.positions:,} ({d.sequences} sequences x {d.positions})",
        f"raw          {human_bytes(raw)}",
        f"compressed   {human_bytes(size)} (ratio {size / raw:.3f})",
        f"seconds      {seconds:.1f}" + ("" if computed else " (nothing to compute)"),
        f"perplexity   {_perplexity(run.read('token_nll'))}",
    ]
    bad = {site: run.read(nonfinite_name(site)) for site in run.info.stored_sites}
    total = sum(int(counts.sum()) for counts in bad.values())
    if total:
        worst = _worst_cells(bad)
        lines.append(f"non-finite   {total:,} values are NaN or infinite, most in {worst}")
    else:
        lines.append("non-finite   none")
    command = shlex.join(["analyze", "--store", str(store), "--magnitude", "6"])
    return "\n".join([*lines, f"store        {store}", f"next         {command}"])


def _perplexity(token_nll: npt.NDArray[np.float32]) -> str:
    """exp of the mean loss; position 0 has none, and a NaN or infinite one elsewhere is never passed over."""
    scored = token_nll[:, 1:].astype(np.float64)
    if not scored.size:
        return "none (one position has no next token)"
    bad = int(np.count_nonzero(~np.isfinite(scored)))
    if bad:
        return f"none ({bad:,} of {scored.size:,} losses are NaN or infinite)"
    with np.errstate(over="ignore"):
        return f"{float(np.exp(scored.mean())):.2f}"


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
