"""Peak memory and bytes of a store where weights decide, predicted and measured; bench/predictions.py has more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.predictions import predicted_and_measured, write_family


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that does not stay: a checkpoint here takes 300 MB."""
    with tempfile.TemporaryDirectory(prefix="peak-") as made:
        yield Path(made)


@pytest.mark.parametrize(("name", "engine"), [("experts", "resident"), ("MXFP4", "streamed")])
def test_as_predicted(name: str, engine: str, folder: Path) -> None:
    write_family(name, folder / name)
    for prediction in predicted_and_measured(str(folder / name), folder / "run.zarr", engine, 2, 64, 1):
        assert prediction.ratio <= prediction.bar, prediction
