"""``open_run``: labelled, lazy, decoded; and what it says of damage."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Run, open_run
from schemas.bits import ENCODINGS, decode
from schemas.errors import CorruptChunkError, StoreError
from schemas.layout import Dimensions

MakeStore = Callable[..., Any]


def same_bits(left: Any, right: Any) -> None:
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(left.view(f"u{left.itemsize}"), right.view(f"u{right.itemsize}"))


@pytest.mark.parametrize("bits", ENCODINGS)
@pytest.mark.parametrize("chunks", [None, {}, {"layer": 2}, "auto"])
def test_every_array_is_decoded_and_labelled(make_store: MakeStore, bits: str, chunks: Any) -> None:
    made = make_store(bits)
    dataset = open_run(made.path, chunks=chunks)
    assert dict(dataset.sizes) == {"layer": 3, "sequence": 2, "position": 5, "feature": 7}
    for dim, size in dataset.sizes.items():
        np.testing.assert_array_equal(dataset[dim], np.arange(size))
    assert dataset.attrs["model"]["name"] == "tiny"
    assert dataset.attrs == made.info.model_dump(mode="json")
    for name, written in made.written.items():
        held = dataset[name]
        if "bits" in held.attrs:
            assert held.dtype == np.float32
            same_bits(held.values, decode(written, made.encoding))
        else:
            same_bits(held.values, written)
    assert dataset.committed.values.all()
    unnamed = [name for name in dataset.variables if "long_name" not in dataset[name].attrs]
    assert not unnamed  # each says in words what it holds: in a notebook, and on the axes of a plot


def test_patterns_are_left_as_they_are_when_asked(make_store: MakeStore) -> None:
    made = make_store("float16")
    dataset = open_run(made.path, decoded=False)
    same_bits(dataset.ln_mlp.values, made.written["ln_mlp"])


@pytest.mark.parametrize("chunks", [None, {}])
def test_opening_reads_nothing_but_metadata(make_store: MakeStore, chunks: Any) -> None:
    made = make_store()
    for file in made.path.glob("*/c.*"):
        file.write_bytes(b"ruined")
    dataset = open_run(made.path, chunks=chunks)
    selected = dataset.ln_attn.sel(layer=1, sequence=0).isel(feature=slice(2, 4)).transpose()
    assert selected.shape == (2, 5)
    assert "ln_attn" in repr(dataset)
    with pytest.raises(CorruptChunkError, match=r"ln_attn/c\.1\.0\.0\.0 \(layer 1, sequence 0\)"):
        selected.load()


def test_chunks_are_those_of_the_store(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.layout.MAX_CHUNK_BYTES", 2 * 7 * 2)
    made = make_store()
    assert open_run(made.path).ln_attn.chunks is None
    dataset = open_run(made.path, chunks={})
    assert dataset.ln_attn.chunks == ((1,) * 3, (1,) * 2, (2, 2, 1), (7,))
    assert dataset.ln_attn_layer_peak.chunks == ((1,) * 3, (1,) * 2, (7,))
    assert dict(dataset.chunks)["position"] == (2, 2, 1)


def test_an_alias_shows_the_arrays_of_the_site_it_stands_for(make_store: MakeStore) -> None:
    made = make_store(alias=True)
    assert not (made.path / "ln_mlp").exists()
    assert Run(made.path).info.site_array("ln_mlp") == "ln_attn"
    for chunks in (None, {}):
        dataset = open_run(made.path, chunks=chunks)
        for suffix in ("", "_layer_peak", "_position_peak", "_nonfinite"):
            same_bits(dataset[f"ln_mlp{suffix}"].values, dataset[f"ln_attn{suffix}"].values)


@pytest.mark.parametrize("chunks", [None, {}])
def test_a_dataset_travels_to_another_process(make_store: MakeStore, chunks: Any) -> None:
    made = make_store()
    opened = open_run(made.path, chunks=chunks)
    travelled = pickle.loads(pickle.dumps(opened))
    same_bits(travelled.ln_attn.values, opened.ln_attn.values)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Any]:
    """A dataset opened once, and its first site read whole, for many selections."""
    from schemas.create import create_run
    from schemas.layout import plan_arrays
    from schemas.run_writer import RunWriter
    from tests.schemas.conftest import patterns, run_info

    sizes = Dimensions(3, 2, 5, 7)
    encoding = ENCODINGS["bfloat16"]
    path = tmp_path_factory.mktemp("shared") / "run.zarr"
    info = run_info(sizes, "bfloat16")
    create_run(path, info, plan_arrays(sizes, ["ln_attn"], encoding), {})
    values = patterns(encoding, (3, 2, 5, 7))
    RunWriter(path).write("ln_attn", (slice(None),), values)
    return open_run(path), decode(values, encoding)


def keys(size: int) -> st.SearchStrategy[Any]:
    integers = st.integers(-size, size - 1)
    # xarray itself (2026.9) fails on a slice that goes backwards over nothing, whatever the backend: not asked here.
    slices = st.slices(size).filter(lambda picked: len(range(*picked.indices(size))) or (picked.step or 1) > 0)
    return st.one_of(integers, slices, st.lists(integers, min_size=1, max_size=4))


@settings(max_examples=60, deadline=None)
@given(key=st.tuples(keys(3), keys(2), keys(5), keys(7)))
def test_any_selection_reads_the_same_as_from_memory(shared: tuple[xr.Dataset, Any], key: tuple[Any, ...]) -> None:
    dataset, whole = shared
    expected = xr.DataArray(whole, dims=dataset.ln_attn.dims)[key]
    same_bits(dataset.ln_attn[key].values, expected.values)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_run(tmp_path / "absent.zarr")
