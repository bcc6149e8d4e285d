"""Peak memory and bytes of a store, predicted and measured in processes of their own; bench/predictions.py has more."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.predictions import predicted_and_measured, write_family
from tests.checkpoints import write_checkpoint


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that does not stay: a checkpoint here takes 300 MB."""
    with tempfile.TemporaryDirectory(prefix="peak-") as made:
        yield Path(made)


def tiny(name: str, folder: Path) -> None:
    write_checkpoint(folder, name)


@pytest.mark.parametrize(
    ("write", "name", "engine"),
    [
        (tiny, "llama", "resident"),  # what there is without a model
        (write_family, "experts", "resident"),
        (write_family, "MXFP4", "streamed"),
    ],
)
def test_as_predicted(write: Callable[[str, Path], None], name: str, engine: str, folder: Path) -> None:
    write(name, folder / name)
    for prediction in predicted_and_measured(str(folder / name), folder / "run.zarr", engine, 2, 64, 1):
        assert prediction.ratio <= prediction.bar, prediction
