"""The same store in zarr-python, xarray and tensorstore: all see the bits that were written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr

from schemas.bits import ENCODINGS
from schemas.run import Run

MakeStore = Callable[..., Any]


def by_zarr(path: Path, name: str) -> Any:
    return zarr.open_array(path / name, mode="r")[...]


def by_zarr_group(path: Path, name: str) -> Any:
    return zarr.open_group(path, mode="r")[name][...]  # type: ignore[index]


def by_xarray(path: Path, name: str) -> Any:
    return xr.open_zarr(path)[name].values


def by_xarray_in_memory(path: Path, name: str) -> Any:
    return xr.open_zarr(path, chunks=None)[name].values


def by_tensorstore(path: Path, name: str) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path / name}/"}}
    return tensorstore.open(spec, read=True).result().read().result()


READERS = [by_zarr, by_zarr_group, by_xarray, by_xarray_in_memory, by_tensorstore]


@pytest.mark.parametrize("bits", ENCODINGS)
@pytest.mark.parametrize("reader", READERS)
def test_other_readers_see_the_same_bits(make_store: MakeStore, bits: str, reader: Callable[..., Any]) -> None:
    made = make_store(bits)
    run = Run(made.path)
    assert len(made.written) > 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, written in made.written.items():
            read = reader(made.path, name)
            assert read.dtype == written.dtype
            pattern = f"u{written.itemsize}"
            np.testing.assert_array_equal(read.view(pattern), written.view(pattern))
            np.testing.assert_array_equal(run.read(name).view(pattern), written.view(pattern))


@pytest.mark.parametrize("reader", READERS)
def test_other_readers_see_the_fill_value_where_nothing_was_written(
    make_store: MakeStore, reader: Callable[..., Any]
) -> None:
    made = make_store("bfloat16", commit=False)
    assert (reader(made.path, "ln_attn") == 0x7FC0).all()


@pytest.mark.parametrize("reader", READERS)
def test_other_readers_refuse_a_flipped_bit(make_store: MakeStore, reader: Callable[..., Any]) -> None:
    made = make_store()
    file = made.path / "ln_attn" / "c.0.1.0.0"
    content = bytearray(file.read_bytes())
    content[20] ^= 4
    file.write_bytes(content)
    with pytest.raises((ValueError, RuntimeError), match=r"checksum|Digest mismatch"):
        reader(made.path, "ln_attn")


def test_xarray_has_the_names_of_the_dimensions(make_store: MakeStore) -> None:
    made = make_store()
    dataset = xr.open_zarr(made.path)
    assert dataset.ln_attn.dims == ("layer", "sequence", "position", "feature")
    assert dataset.attrs["format"] == "outlier-features-run"
