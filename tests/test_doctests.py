"""Every example in a docstring runs, on stores that are really there."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import analyze
import schemas
from tests.stores import write_store

MODULES = [
    name
    for package in (analyze, schemas)
    for name in [
        package.__name__,
        *(found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
    ]
    if not name.endswith("__main__")
]


def test_there_are_modules() -> None:
    assert len(MODULES) > 40


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two layers, three sequences and four features; feature 2 is 9, 8 and 7 throughout its sequences.

    In the other run, of a model twice as large, it is 1 less, and feature 1 is 6 in the first sequence.
    """
    folder = tmp_path_factory.mktemp("documented")
    for name, less, parameters in (("tiny", 0, 135_000_000), ("other", 1, 270_000_000)):
        values = np.tile(np.float32([0.5, -1, 0, 2]), (2, 3, 8, 1))
        values[..., 2] = (9 - less) - np.arange(3)[None, :, None]
        values[:, 0, :, 1] -= 5 * less
        facts = {"name": name, "total_parameters": parameters, "active_parameters": parameters}
        write_store(folder / "runs" / f"{name}.zarr", {"ln_attn": values, "ln_mlp": -values}, model=facts)
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    failures, _ = doctest.testmod(importlib.import_module(name))
    assert not failures
