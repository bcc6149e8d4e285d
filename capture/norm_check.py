"""Whether a site's values are what its norm makes of what entered it: arithmetic that holds whatever a model computes.

With y the site's values and x what entered its norm, the mean of (y / gain)^2 is rms(x)^2 / (rms(x)^2 + eps), up to the
rounding of y. A hook that sees another tensor, or a gain that is not the one applied, breaks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from schemas.errors import CaptureError
from schemas.provenance import NormInfo

__all__ = ["Applied", "NormCheck", "Sample"]

CELLS_AT_ONCE = 16
"""Cells whose arithmetic is one: 20 small operations a group and not a cell, in little memory (decision 034)."""

ROUNDINGS = 3
"""Most roundings to the model's dtype between z and y: norms round z, then its product with the gain; one to spare."""

SLACK = 64 * 2.0**-24
"""Relative error of z from sums and square roots in float32."""


@dataclass(frozen=True)
class Applied:
    """Effective gain and bias (feature,) of one norm, in float32; ``reciprocal`` is 0 for a gain of 0."""

    gain: torch.Tensor
    bias: torch.Tensor
    reciprocal: torch.Tensor


@dataclass(frozen=True)
class Sample:
    """One cell at some positions: what entered the norm, in float32, and what the site was given, as the model computes
    it (sequence, position, feature); statistics (sequence, position) of the former; and whether the norm's output is
    what the site was given."""

    layer: int
    x: torch.Tensor
    statistics: tuple[torch.Tensor, ...]
    y: torch.Tensor
    applied: Applied
    same: bool


class NormCheck:
    """Takes the cells of one site during a forward, and judges them at its end."""

    def __init__(self, site: str, norm: NormInfo) -> None:
        """Nothing is there to be judged yet."""
        self._site = site
        self._norm = norm
        self._waiting: list[Sample] = []
        self._figures: list[torch.Tensor] = []
        self._judged: list[tuple[int, bool]] = []

    def clear(self) -> None:
        """Forget all cells."""
        self._waiting, self._figures, self._judged = [], [], []

    def add(self, sample: Sample) -> None:
        """Take one cell."""
        if self._waiting and (len(self._waiting) == CELLS_AT_ONCE or self._waiting[0].x.device != sample.x.device):
            self._weigh()
        self._waiting.append(sample)

    def judge(self, stride: int) -> None:
        """Raise CaptureError for the first cell that is not its norm's output; positions are ``stride`` apart."""
        self._weigh()
        if not self._figures:
            return
        found, expected, allowed = torch.cat([figures.cpu() for figures in self._figures], dim=1)
        # A sum that overflowed, or a NaN of the model's own: those are counted in SITE_nonfinite.
        wrong = ((found - expected).abs() > allowed) & found.isfinite() & expected.isfinite()
        for cell, (layer, same) in enumerate(self._judged):
            path = self._norm.modules[layer]
            if bool(wrong[cell].any()):
                sequence, position = map(int, wrong[cell].nonzero()[0])
                is_, due, within = (float(values[cell, sequence, position]) for values in (found, expected, allowed))
                raise CaptureError(
                    f"{self._site} of layer {layer}: at position {position * stride} the mean of (y / gain)^2 is "
                    f"{is_:.6g}, and by what entered {path} it is {due:.6g} (rounding: {within:.2g}). The values are "
                    "not this norm's output. The layer is not committed; please report this architecture"
                )
            if not same:
                raise CaptureError(
                    f"{self._site} of layer {layer}: what entered is not what came out of {path}. The layer is not "
                    "committed; please report this architecture"
                )

    def _weigh(self) -> None:
        if self._waiting:
            self._judged += [(sample.layer, sample.same) for sample in self._waiting]
            self._figures.append(_figures(self._waiting, self._norm))
            self._waiting = []


def _figures(samples: Sequence[Sample], norm: NormInfo) -> torch.Tensor:
    """(3, cell, sequence, position): mean of (y / gain)^2 as found, as expected, and how far apart they may be.

    Features with a gain of 0 are left out of each. The bound is the worst case, element by element: one massive
    activation may hold nearly all of a row's energy, so that nothing averages out.
    """
    about = torch.finfo(samples[0].y.dtype)
    reciprocal = torch.stack([sample.applied.reciprocal for sample in samples])[:, None, None]
    bias = torch.stack([sample.applied.bias for sample in samples])[:, None, None]
    kept = (reciprocal != 0).float()
    x = torch.stack([sample.x for sample in samples])
    *means, spread = (torch.stack(values)[..., None] for values in zip(*(s.statistics for s in samples), strict=True))
    scale = (spread.square() + (norm.eps or 0.0)).rsqrt()
    mean = means[0] if means else torch.zeros_like(spread)
    z = (x - mean) * scale * kept
    size = z.abs()
    found = (torch.stack([sample.y for sample in samples]).float() - bias) * reciprocal
    error = ROUNDINGS * about.eps / 2 * (size + 2 * (bias * reciprocal).abs())
    error += SLACK * (size + (mean * scale).abs() * kept)
    error += about.smallest_normal * about.eps * (kept + reciprocal.abs())  # the least that y can be, or lose
    return torch.stack([found.square().mean(-1), z.square().mean(-1), ((2 * size + error) * error).mean(-1)])
