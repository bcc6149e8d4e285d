"""Opening a run store: what is refused, and what is named as wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from schemas import Run
from schemas.errors import StoreError
from schemas.provenance import RunInfo, differences, parse_attributes

MakeStore = Callable[..., Any]


def edit_root(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    metadata = json.loads((path / "zarr.json").read_text())
    change(metadata)
    (path / "zarr.json").write_text(json.dumps(metadata))


def set_attributes(path: Path, **changes: Any) -> None:
    edit_root(path, lambda metadata: metadata["attributes"].update(changes))


def test_a_path_that_does_not_exist_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"does not exist.*capture --model NAME --store"):
        Run(tmp_path / "absent.zarr")


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no zarr\.json"):
        Run(tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match="not a run store"):
        Run(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"zarr_format": 4}', '"text"', "\x00\xff"])
def test_a_damaged_zarr_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(StoreError, match="not a readable Zarr v3 group"):
        Run(tmp_path)


def test_an_array_is_no_run_store(make_store: MakeStore) -> None:
    made = make_store()
    with pytest.raises(StoreError, match="not a readable Zarr v3 group"):
        Run(made.path / "ln_attn")


def test_another_zarr_group_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(StoreError, match="format 'outlier-features-run'"):
        Run(tmp_path / "group.zarr")


@pytest.mark.parametrize("version", ["2.0", "2.7", "10.0"])
def test_a_newer_major_version_is_refused_with_what_to_do(make_store: MakeStore, version: str) -> None:
    made = make_store()
    set_attributes(made.path, format_version=version)
    with pytest.raises(StoreError, match=rf"version {version}.*reads up to 1\.x.*pip install --upgrade"):
        Run(made.path)


@pytest.mark.parametrize("version", ["", "one", None])
def test_a_malformed_version_is_refused(make_store: MakeStore, version: str | None) -> None:
    made = make_store()
    set_attributes(made.path, format_version=version)
    with pytest.raises(StoreError, match=r"MAJOR\.MINOR"):
        Run(made.path)


def test_a_newer_minor_version_is_read_and_its_attributes_survive(make_store: MakeStore) -> None:
    made = make_store()

    def newer(metadata: dict[str, Any]) -> None:
        attributes = metadata["attributes"]
        attributes |= {"format_version": "1.9", "observatory": {"floor": 5}}
        attributes["model"]["tied"] = True
        attributes["sites"]["ln_mlp"]["width"] = "wide"
        attributes["corpus"]["packing"] = ["a", "b"]

    edit_root(made.path, newer)
    stored = json.loads((made.path / "zarr.json").read_text())["attributes"]
    run = Run(made.path)
    assert run.info.format_version == "1.9"
    assert run.info.model_dump(mode="json") == stored
    assert RunInfo.model_validate_json(run.info.model_dump_json()) == run.info
    np.testing.assert_array_equal(run.read("ln_attn").view(np.uint16), made.written["ln_attn"])


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        ("bits", "float8", "bits"),
        ("model", None, "model"),
        ("sites", {"a": 3}, "sites.a"),
        ("signature", 3, "signature"),
    ],
)
def test_damaged_attributes_are_named(make_store: MakeStore, where: str, value: Any, named: str) -> None:
    made = make_store()
    set_attributes(made.path, **{where: value})
    with pytest.raises(StoreError, match=f"damaged attributes.*{named}"):
        Run(made.path)


def test_a_missing_attribute_is_named(make_store: MakeStore) -> None:
    made = make_store()
    edit_root(made.path, lambda metadata: metadata["attributes"]["corpus"].pop("length"))
    with pytest.raises(StoreError, match=r"corpus\.length"):
        Run(made.path)


def test_an_array_that_is_not_there_is_named_with_those_that_are(make_store: MakeStore) -> None:
    run = Run(make_store().path)
    assert "residual" not in run
    with pytest.raises(StoreError, match=r"no array 'residual'.*ln_attn"):
        run.array("residual")


def test_differences_lists_changed_added_and_dropped_settings() -> None:
    found = differences({"a": 1, "b": 2, "gone": "x"}, {"a": 1, "b": 3, "new": True})
    assert found == [("b", 2, 3), ("gone", "x", None), ("new", None, True)]


def test_parse_attributes_keeps_what_it_was_given(make_store: MakeStore) -> None:
    made = make_store()
    attributes = dict(zarr.open_group(made.path, mode="r").attrs)
    assert parse_attributes(attributes, "here").model_dump(mode="json") == attributes
