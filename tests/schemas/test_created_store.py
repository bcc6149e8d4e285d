"""Creating a run store: whole or not at all, and what may be written to it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Run
from schemas.bits import ENCODINGS
from schemas.create import create_run
from schemas.errors import StoreError
from schemas.layout import plan_arrays
from schemas.run_writer import RunWriter

MakeStore = Callable[..., Any]


@pytest.mark.parametrize("bits", ENCODINGS)
def test_a_new_store_has_every_array_empty_and_nothing_committed(make_store: MakeStore, bits: str) -> None:
    made = make_store(bits, commit=False)
    run = Run(made.path)
    assert run.dimensions == made.dimensions
    assert run.info == made.info
    for spec in plan_arrays(made.dimensions, made.info.stored_sites, made.encoding):
        array = run.array(spec.name)
        assert spec.name in run
        assert array.shape == spec.shape
        assert array.chunks == spec.chunks
        assert array.dtype == spec.dtype
        assert array.metadata.dimension_names == spec.dims
        assert dict(array.attrs) == dict(spec.attributes)
        if spec.name not in made.written:
            np.testing.assert_array_equal(run.read(spec.name), np.full(spec.shape, spec.fill, spec.dtype))
    np.testing.assert_array_equal(run.read("token_id"), made.written["token_id"])
    assert not run.committed().any()
    assert run.complete_sequences() == []


def test_codecs_are_explicit_in_every_array_and_end_in_crc32c(make_store: MakeStore) -> None:
    made = make_store(commit=False)
    files = sorted(made.path.glob("*/zarr.json"))
    assert len(files) == 12
    for file in files:
        metadata = json.loads(file.read_text())
        size = np.dtype(metadata["data_type"]).itemsize
        store_order = {"name": "bytes", "configuration": {"endian": "little"}} if size > 1 else {"name": "bytes"}
        blosc = {"typesize": size, "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
        assert metadata["codecs"] == [store_order, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}]
        assert metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "."}}
        assert metadata["chunk_grid"]["name"] == "regular"


def test_an_existing_path_is_not_overwritten(make_store: MakeStore) -> None:
    made = make_store()
    with pytest.raises(StoreError, match="--overwrite"):
        make_store()
    assert Run(made.path).complete_sequences() == [0, 1]


def test_an_unwritable_place_is_an_error_that_names_it(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/run\.zarr.*--store"):
        make_store(name="file/run.zarr")
    assert (tmp_path / "file").read_text() == ""


def test_a_failed_creation_leaves_nothing(make_store: MakeStore, tmp_path: Path) -> None:
    made = make_store(commit=False, name="model.zarr")
    shutil.rmtree(made.path)
    specs = plan_arrays(made.dimensions, made.info.stored_sites, made.encoding)
    with pytest.raises(ValueError, match="token_id has shape"):
        create_run(made.path, made.info, specs, {"token_id": np.zeros((9, 9), np.int32)})
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys, zarr
from schemas import create
zarr.consolidate_metadata = lambda store: os.kill(os.getpid(), signal.SIGKILL)
from schemas.bits import ENCODINGS
from schemas.layout import plan_arrays
from schemas.provenance import RunInfo
info = RunInfo.model_validate_json(sys.stdin.read())
create.create_run(sys.argv[1], info, [], {})
"""


def test_a_killed_creation_leaves_no_store_and_the_next_one_clears_its_draft(
    make_store: MakeStore, tmp_path: Path
) -> None:
    first = make_store(name="other.zarr")
    path = tmp_path / "run.zarr"
    text = first.info.model_dump_json().encode()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], input=text, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 2  # the other store and the draft
    make_store()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.zarr", "run.zarr"]


@pytest.mark.parametrize("shape", [(9, 9), (5, 8), (7, 5), (7,), (1, 1, 5, 7), ()])
def test_values_of_another_shape_than_the_selection_are_refused(make_store: MakeStore, shape: tuple[int, ...]) -> None:
    writer = RunWriter(make_store(commit=False).path)
    with pytest.raises(ValueError, match=r"takes an array of shape \(5, 7\)"):
        writer.write("ln_attn", (0, 0), np.ones(shape, np.uint16))


def test_values_that_are_not_patterns_are_refused(make_store: MakeStore) -> None:
    writer = RunWriter(make_store(commit=False).path)
    with pytest.raises(ValueError, match="bit patterns in uint16, not float32"):
        writer.write("ln_attn", (0, 0), np.ones((5, 7), np.float32))
