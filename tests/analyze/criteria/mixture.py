"""A small made-up mixture of experts with norms, gains, routing and maxima of experts: all that criteria read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.provenance import NormInfo
from tests.stores import write_store

__all__ = ["EXPERTS", "LAYERS", "SEQUENCES", "Made", "make_mixture"]

Array = npt.NDArray[Any]

LAYERS, SEQUENCES, POSITIONS, FEATURES, EXPERTS, RANKS = 4, 3, 10, 9, 6, 2
EPS = 1e-6
SITES = ("ln_attn", "ln_mlp")


@dataclass(frozen=True)
class Made:
    """What the store at ``path`` holds: float32 (layer, sequence, position, feature) by site, and what lies beside."""

    path: Path
    sites: dict[str, Array]
    beside: dict[str, Array]

    def recovered(self, site: str, layer: int, sequence: int) -> Array:
        """(position, feature) float64 of the residual behind a site, as docs/store-format.md has it."""
        spread = np.sqrt(self.beside[f"{site}_rms"][layer, sequence].astype(np.float64) ** 2 + EPS)
        gain = self.beside[f"{site}_gain"][layer].astype(np.float64)
        return self.sites[site][layer, sequence].astype(np.float64) / gain * spread[:, None]

    def residual(self, layer: int, sequence: int) -> Array:
        """(position, feature) float32, as stored."""
        return self.sites["residual"][layer, sequence]


def make_mixture(path: Path, *, residual: bool = False, odd_gain: float | None = None, **options: Any) -> Made:
    """Write it. Layer 0 has no experts; the residual is massive in feature 4 at position 0, and large in feature 2.

    ``odd_gain``: that of ln_mlp in layer 2 and feature 5, which is 0 there.
    """
    random = np.random.default_rng(11)
    x = random.normal(0, 0.5, (LAYERS, SEQUENCES, POSITIONS, FEATURES)).astype(np.float32)
    x[1:, :, 0, 4] = 3000
    x[..., 2] += 40
    norms, beside, values = {}, {}, {}
    for place, site in enumerate(SITES):
        entering = x + np.float32(place)
        rms = np.sqrt((entering.astype(np.float64) ** 2).mean(axis=-1))
        gain = random.uniform(0.5, 3, (LAYERS, FEATURES)).astype(np.float32)
        values[site] = (entering / np.sqrt(rms**2 + EPS)[..., None] * gain[:, None, None, :]).astype(np.float32)
        if odd_gain is not None and site == "ln_mlp":
            gain[2, 5], values[site][2, ..., 5] = odd_gain, 0
        beside |= {f"{site}_rms": rms.astype(np.float32), f"{site}_gain": gain}
        modules: list[str | None] = [f"layers.{i}.norm" for i in range(LAYERS)]
        norms[site] = NormInfo(kind="rms", eps=EPS, gain="weight", modules=modules)
    if residual:
        values["residual"] = x
    ids = np.argsort(random.random((LAYERS, SEQUENCES, POSITIONS, EXPERTS)), axis=-1)[..., :RANKS].astype(np.uint16)
    ids[0] = 65535
    ids[ids == 5] = 4  # to expert 5 no token goes; some then go twice to 4, and count once
    peaks = random.uniform(1, 2, (LAYERS, SEQUENCES, EXPERTS)).astype(np.float32)
    peaks[0], peaks[:, :, 5], peaks[1, 1, 3] = np.nan, np.nan, 700
    beside |= {"expert_id": ids, "expert_weight": np.full(ids.shape, 0.5, np.float32), "expert_peak": peaks}
    held = write_store(path, values, norms=norms, beside=beside, model={"experts": EXPERTS, "top_k": RANKS}, **options)
    return Made(path, held, beside)
