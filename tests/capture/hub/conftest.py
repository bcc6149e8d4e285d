"""A Hub on this machine, and the capture command in a process that knows no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.capture.hub.repositories import FINEWEB, FLAGS, MODEL, fineweb, notes
from tests.capture.process import CaptureProcess, Ran
from tests.hub import Hub

SOON_SECONDS = 15
"""In which a refusal comes."""


@pytest.fixture(scope="session")
def hub(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    model = shutil.copytree(checkpoint("qwen3"), root / "model")
    (model / "README.md").write_text("# Tiny")
    (model / "pytorch_model.bin").write_bytes(b"pickled")
    (model / "onnx").mkdir()
    (model / "onnx" / "model.safetensors").write_bytes(b"other weights")
    pickles = shutil.copytree(checkpoint("qwen3"), root / "pickles", ignore=shutil.ignore_patterns("*.safetensors"))
    (pickles / "pytorch_model.bin").write_bytes(b"pickled")
    with Hub() as hub:
        hub.add("model", MODEL, model)
        hub.add("model", "tiny/gated", model, gated=True)
        hub.add("model", "tiny/pickles", pickles)
        hub.add("model", "tiny/none", fineweb(root / "fineweb"))
        hub.add("dataset", FINEWEB, root / "fineweb")
        hub.add("dataset", "tiny/notes", notes(root / "notes"))
        hub.add("dataset", "tiny/gated-notes", root / "notes", gated=True)
        yield hub
    assert hub.strays == []


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the process keeps what it downloads."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def process(hub: Hub, home: Path) -> Iterator[CaptureProcess]:
    with CaptureProcess(hub.environment(home, HF_UPDATE_DOWNLOAD_COUNTS="0")) as process:
        yield process


@pytest.fixture
def run(process: CaptureProcess, hub: Hub) -> Callable[..., Ran]:
    """Function that runs a command that must not raise; the hub's list of requests holds only those it made."""
    hub.requests.clear()
    hub.ranges.clear()

    def ran(*arguments: object, **options: object) -> Ran:
        result = process.run(*arguments, *FLAGS, **options)  # type: ignore[arg-type]
        assert result.status != -1, result.err
        return result

    return ran


@pytest.fixture
def refused(run: Callable[..., Ran], tmp_path: Path) -> Callable[..., str]:
    """Function to the message of a command that soon fails with status 2 and writes nothing."""

    def message(*arguments: object, **options: object) -> str:
        store = tmp_path / "refused.zarr"
        ran = run("--store", store, *arguments, **options)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("capture: error: ")
        assert ran.err.count("\n") == 1
        assert ran.seconds < SOON_SECONDS
        assert not store.exists()
        return ran.err.removeprefix("capture: error: ").strip()

    return message
