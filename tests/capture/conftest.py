"""Tiny checkpoints, captures of them and plain forwards through them, each made once a session."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from schemas import Run
from tests.capture.captures import POSITIONS, PROSE, SEQUENCES, capture
from tests.capture.forked_captures import Captures, capturing_processes
from tests.checkpoints import Cell, site_inputs, write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread only waits for the first (CPU time here: 70 s with one, 126 s with two)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small .txt file."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(PROSE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function from an architecture's name to a bfloat16 checkpoint of it, which no test may change."""

    @functools.cache
    def made(name: str) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / name, name)

    return made


@pytest.fixture(scope="session")
def captured(
    checkpoint: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """Function from architecture, dtype and batch size to a finished run, which no test may change."""

    @functools.cache
    def made(name: str, dtype: str = "bfloat16", batch_size: int = 1) -> Run:
        store = tmp_path_factory.mktemp("run") / f"{name}.zarr"
        options = ("--sequences", SEQUENCES, "--length", POSITIONS, "--dtype", dtype, "--batch-size", batch_size)
        assert capture(checkpoint(name), store, text, *options) == 0
        return Run(store)

    return made


@pytest.fixture
def disk_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk, where writing takes long enough for a kill to land amid it; else one as any other."""
    disk = Path("/var/tmp")
    if not os.access(disk, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=disk, prefix="outlier-features-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def captures() -> Iterator[Captures]:
    """Captures in processes of their own, all forked from one: torch and transformers are imported once."""
    with capturing_processes() as ask:
        yield ask


@pytest.fixture(scope="session")
def plain_model(checkpoint: Callable[[str], Path]) -> Callable[..., Any]:
    """Function from architecture and dtype to the model as transformers alone loads it."""

    @functools.cache
    def loaded(name: str, dtype: str = "bfloat16") -> Any:
        return AutoModelForCausalLM.from_pretrained(checkpoint(name), dtype=getattr(torch, dtype)).eval()

    return loaded


@pytest.fixture(scope="session")
def plain_inputs(plain_model: Callable[..., Any]) -> Callable[[Run, str, range], dict[Cell, torch.Tensor]]:
    """Function from a run, its architecture and a batch of its sequences to what each module is handed in a plain
    forward over them, as (sequence, position, feature)."""

    def handed(run: Run, name: str, batch: range) -> dict[Cell, torch.Tensor]:
        ids = torch.from_numpy(run.read("token_id")[batch.start : batch.stop]).long()
        inputs = site_inputs(plain_model(name, run.info.bits), name, ids)
        return {cell: tensor.reshape(*ids.shape, -1) for cell, tensor in inputs.items()}

    return handed
