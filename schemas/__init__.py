"""The contract between capture and analyze: what a run store holds and what its bits mean.

The only package that both sides import; it imports neither, nor torch or dask. xarray only inside ``open_run``.
"""

from schemas.bits import ENCODINGS, Encoding, threshold_bits
from schemas.dataset import open_run
from schemas.errors import OutlierFeaturesError
from schemas.provenance import FORMAT_VERSION, RunInfo
from schemas.recovery import norm_input, recover_residual
from schemas.run import Run

__all__ = [
    "ENCODINGS",
    "FORMAT_VERSION",
    "Encoding",
    "OutlierFeaturesError",
    "Run",
    "RunInfo",
    "norm_input",
    "open_run",
    "recover_residual",
    "threshold_bits",
]
