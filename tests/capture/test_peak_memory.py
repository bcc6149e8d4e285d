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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engine", "layers"), [("experts", "resident", 3), ("MXFP4", "streamed", 2)])
def test_as_predicted(name: str, engine: str, layers: int, folder: Path) -> None:
    """Of as few layers as outweigh, together or the largest of them, what Python and torch take."""
    write_family(name, folder / name, num_hidden_layers=layers)
    for prediction in predicted_and_measured(str(folder / name), folder / "run.zarr", engine, 2, 16, 1):
        assert prediction.ratio <= prediction.bar, prediction
