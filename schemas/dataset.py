"""A run store as an xarray Dataset whose hidden states are decoded to float32 as they are read, and not before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.run import Run
from schemas.words import DIMENSION_WORDS, array_words

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_run"]


def open_run(path_or_url: str | os.PathLike[str], *, decoded: bool = True, chunks: Any = None) -> xr.Dataset:
    """The run at ``path_or_url`` as a Dataset; nothing but metadata is read until values are asked for.

    Sites and peaks are float32 (``decoded=False``: the stored bit patterns, uint16 for the 16-bit formats), all
    dimensions carry integer coordinates, ``attrs`` the provenance, and each array a ``long_name`` that says what it
    holds. A site that is an alias of another shows that one's values. ``chunks`` as in ``xarray.open_zarr``: None
    gives xarray's own lazy arrays, ``{}`` Dask arrays in the store's chunks. Raises StoreError where there is no run
    store, CorruptChunkError when a value is read from a chunk whose checksum fails.

    >>> float(open_run("runs/tiny.zarr").ln_attn.sel(layer=1, sequence=0, feature=2).max())
    9.0
    """
    import xarray as xr
    from xarray.core import indexing

    from schemas.lazy import LazyArray

    run = Run(path_or_url)

    def variable(name: str) -> xr.Variable:
        array = run.array(name)
        lazy = indexing.LazilyIndexedArray(LazyArray(run, name, decoded))
        dims = array.metadata.dimension_names  # type: ignore[union-attr]
        encoding = {"preferred_chunks": dict(zip(dims or (), array.chunks, strict=True))}
        words = array_words(name, run.info.sites)
        attributes = {**({} if words is None else {"long_name": words}), **array.attrs}
        return xr.Variable(dims, lazy, attributes, encoding)

    variables = {name: variable(name) for name in sorted(run.group.array_keys())}
    for site, about in run.info.sites.items():
        if about.alias is not None:
            for name in [name for name in variables if name == about.alias or name.startswith(f"{about.alias}_")]:
                alias = site + name.removeprefix(about.alias)
                variables[alias] = variables[name].copy(deep=False)
                variables[alias].attrs["long_name"] = array_words(alias, run.info.sites) or alias
    sizes = {dim: size for held in variables.values() for dim, size in held.sizes.items()}
    coordinates = {
        dim: (dim, np.arange(size), {"long_name": DIMENSION_WORDS[str(dim)]} if dim in DIMENSION_WORDS else {})
        for dim, size in sizes.items()
    }
    dataset = xr.Dataset(variables, coordinates, run.info.model_dump(mode="json"))
    opened = dataset if chunks is None else dataset.chunk(chunks or _stored_chunks(dataset))
    opened.encoding["source"] = run.path  # as xarray.open_zarr does: whoever is given the Dataset finds the run
    return opened


def _stored_chunks(dataset: xr.Dataset) -> Any:
    """One position chunk per file: the chunks that every array of the store was written in."""
    chunks: dict[Any, int] = {}
    for held in dataset.variables.values():
        for dim, size in held.encoding.get("preferred_chunks", {}).items():
            chunks[dim] = min(chunks.get(dim, size), size)
    return chunks
