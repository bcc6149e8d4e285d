"""Stores that several tests read, and a way to run the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from analyze.cli import main
from tests.stores import write_store

Command = Callable[..., tuple[int, str, str]]
Refusal = Callable[..., str]


@pytest.fixture
def analyze(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command: (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def refusal(analyze: Command) -> Refusal:
    """Runs the command, which is to end with an error of the user's alone; what it says on stderr."""

    def run(*arguments: object) -> str:
        status, out, err = analyze(*arguments)
        assert (status, out) == (2, "")
        assert "analyze: error: " in err
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture(scope="session")
def noisy_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sequences of heavy-tailed values at two sites, with one feature raised: outliers at many magnitudes."""
    path = tmp_path_factory.mktemp("stores") / "noisy.zarr"
    random = np.random.default_rng(7)
    values = {site: (random.standard_t(3, (5, 4, 20, 12)) * 2).astype(np.float32) for site in ("ln_attn", "ln_mlp")}
    values["ln_attn"][..., 3] += 9
    write_store(path, values)
    return path
