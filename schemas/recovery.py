"""What entered a norm, recovered from what came out of it: the residual stream behind a site, approximately."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.bits import decode
from schemas.errors import StoreError
from schemas.layout import NORM_STATISTICS, norm_array_name
from schemas.run import Run

__all__ = ["norm_input", "recover_residual"]

Values = npt.NDArray[Any]


def norm_input(
    output: Values,
    gain: Values,
    eps: float,
    *,
    rms: Values | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    bias: Values | None = None,
) -> npt.NDArray[np.float32]:
    """The tensor that a norm made ``output`` (..., feature) of, as float32: NaN in features whose gain is 0.

    ``rms`` (...) for a norm that divides by the root mean square, or else ``mean`` and ``std`` for one that subtracts
    the mean first; ``gain`` and ``bias`` (feature,) as applied. ``output`` was rounded to the model's dtype, once or
    twice, and so is the result approximate, relative to |x - mean| + |bias / gain| * std, by as much.

    >>> norm_input(np.array([2.0, -6.0]), np.array([2.0, 3.0]), 0.0, rms=np.array(5.0))
    array([  5., -10.], dtype=float32)
    """
    if (rms is None) == (std is None):
        raise ValueError("give either rms, or mean and std")
    spread = np.sqrt(np.square(np.asarray(std if rms is None else rms, np.float64)) + eps)[..., None]
    z = np.asarray(output, np.float64) - (0.0 if bias is None else np.asarray(bias, np.float64))
    divisor = np.asarray(gain, np.float64)
    z = z / np.where(divisor == 0, np.nan, divisor)
    centre = 0.0 if mean is None else np.asarray(mean, np.float64)[..., None]
    with np.errstate(over="ignore"):  # what rounding lifts beyond float32
        return (z * spread + centre).astype(np.float32)


def recover_residual(run: Run, site: str, layer: int, sequence: int) -> npt.NDArray[np.float32]:
    """What entered the norm of ``site`` in one cell: (position, feature) float32; see ``norm_input`` for how exactly.

    NaN also where a run with a floor kept no value. Raises StoreError where the run has no such site or keeps no
    slices, or stores no norm for the site in that layer.
    """
    if site not in run.info.sites:
        raise StoreError(f"{run.path} has no site {site!r}; it has: {', '.join(run.info.sites)}")
    array = run.info.site_array(site)
    norm = run.info.sites[array].norm
    if norm is None or norm.kind is None or norm.modules[layer] is None:
        reason = (norm.reason if norm else None) or "none was looked for"
        raise StoreError(
            f"{run.path} stores no norm for {site} of layer {layer} ({reason}). Capture the residual itself with "
            "--sites ln_attn,ln_mlp,residual"
        )

    if not run.retention.slices:
        raise StoreError(f"{run.path} keeps peaks only: capture it again with --keep slices to recover the residual")

    def read(quantity: str, *index: int) -> Values:
        return run.read(norm_array_name(array, quantity), index)

    output = decode(run.read(array, (layer, sequence)), run.encoding)
    if run.retention.floor is not None:
        output[output == 0] = np.nan
    return norm_input(
        output,
        read("gain", layer),
        norm.eps or 0.0,
        bias=read("bias", layer) if norm.bias else None,
        **{quantity: read(quantity, layer, sequence) for quantity in NORM_STATISTICS[norm.kind]},
    )
