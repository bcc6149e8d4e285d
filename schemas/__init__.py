"""The contract between capture and analyze: what a run store holds and what its bits mean.

The only package that both sides import; it imports neither, nor torch or dask. xarray only inside ``open_run``.
The names below are imported when they are first used: a command that ends with a message needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.bits import ENCODINGS as ENCODINGS
    from schemas.bits import Encoding as Encoding
    from schemas.bits import threshold_bits as threshold_bits
    from schemas.dataset import open_run as open_run
    from schemas.errors import OutlierFeaturesError as OutlierFeaturesError
    from schemas.provenance import FORMAT_VERSION as FORMAT_VERSION
    from schemas.provenance import RunInfo as RunInfo
    from schemas.recovery import norm_input as norm_input
    from schemas.recovery import recover_residual as recover_residual
    from schemas.run import Run as Run

_HOMES = {
    "ENCODINGS": "schemas.bits",
    "Encoding": "schemas.bits",
    "FORMAT_VERSION": "schemas.provenance",
    "OutlierFeaturesError": "schemas.errors",
    "Run": "schemas.run",
    "RunInfo": "schemas.provenance",
    "norm_input": "schemas.recovery",
    "open_run": "schemas.dataset",
    "recover_residual": "schemas.recovery",
    "threshold_bits": "schemas.bits",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
