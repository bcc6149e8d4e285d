"""One array of a run as xarray reads it: the chunks that a selection touches, decoded when it is read.

Kept out of ``schemas.dataset`` so that importing the package does not import xarray (0.9 s), and at module level so
that a Dataset can be pickled to the workers of a cluster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from xarray.backends import BackendArray
from xarray.core import indexing

from schemas.bits import decode
from schemas.run import Run

__all__ = ["LazyArray"]


class LazyArray(BackendArray):
    """One stored array, read through ``Run.read`` so that a damaged chunk is named."""

    def __init__(self, run: Run, name: str, decoded: bool) -> None:
        array = run.array(name)
        self.run = run
        self.name = name
        self.shape = array.shape
        self.decoded = decoded and "bits" in array.attrs
        self.dtype = np.dtype("float32") if self.decoded else array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        values = self.run.read(self.name, key)
        return decode(values, self.run.encoding) if self.decoded else values
