"""An S3 server on loopback for all tests here, and a store of every kind of array in it and on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from analyze.cli import main
from schemas.provenance import NormInfo
from tests.buckets import KEY, SECRET, put_folder, served_bucket
from tests.stores import write_store

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    with served_bucket() as address:
        yield address


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The endpoint, with credentials in the environment and no configuration of the machine's own."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "GOOGLE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no-such-file"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return endpoint


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences at two sites with their norms, in chunks of eight positions."""
    path = tmp_path_factory.mktemp("stores") / "run.zarr"
    random = np.random.default_rng(7)
    shape = (4, 3, 20, 12)
    values = {site: (random.standard_t(3, shape) * 2).astype(np.float32) for site in ("ln_attn", "ln_mlp")}
    values["ln_attn"][..., 3] += 9
    norm = NormInfo(kind="rms", modules=[f"layers.{i}.norm" for i in range(4)], eps=1e-6)
    beside = {}
    for site in values:
        beside[f"{site}_rms"] = random.uniform(1, 2, shape[:3]).astype(np.float32)
        beside[f"{site}_gain"] = random.uniform(0.5, 2, (4, 12)).astype(np.float32)
    write_store(path, values, norms=dict.fromkeys(values, norm), beside=beside, position_chunk=8)
    return path


@pytest.fixture(scope="session")
def uploaded(endpoint: str, local: Path) -> str:
    """The same store in the bucket."""
    put_folder(local, endpoint, "studies/run.zarr")
    return "s3://bucket/studies/run.zarr"


@pytest.fixture
def analyze(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command: (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
