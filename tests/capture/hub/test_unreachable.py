"""A Hub that does not serve, is not there, or may not be asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas import Run
from tests.capture.hub.conftest import SOON_SECONDS
from tests.capture.hub.repositories import FINEWEB, FLAGS, MODEL, same_numbers, uncommit
from tests.capture.process import CaptureProcess, Ran
from tests.capture.refused import tree
from tests.checkpoints import write_checkpoint
from tests.hub import Hub


@pytest.mark.parametrize("how", ["unavailable", "forbidden", "hangs up", "mute"])
def test_a_hub_that_does_not_serve(
    how: str, refused: Callable[..., str], hub: Hub, checkpoint: Callable[[str], Path]
) -> None:
    hub.broken = {"unavailable": 503, "forbidden": 403, "hangs up": 0}.get(how)
    hub.mute = threading.Event() if how == "mute" else None
    try:
        message = refused("--model", "tiny/new", "--text", "pydoc", answer_seconds=1)
        assert "tiny/new cannot be fetched from the Hub" in message
        assert "capture --model smollm2-135m --text pydoc" in message
        message = refused("--model", checkpoint("qwen3"), answer_seconds=1)
        assert f"--text {FINEWEB}: " in message
        assert "without a network, use --text pydoc" in message
    finally:
        if hub.mute is not None:
            hub.mute.set()
        hub.broken = hub.mute = None


@pytest.mark.slow
def test_without_a_hub_what_is_in_the_cache_is_used(run: Callable[..., Ran], home: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    ran = run("--model", MODEL, "--text", "pydoc", "--store", store)
    assert (ran.status, ran.err) == (0, "")
    with Hub() as gone:
        environment = gone.environment(home)
    with CaptureProcess(environment) as process:
        ran = process.run("--model", MODEL, "--text", "pydoc", "--store", tmp_path / "again.zarr", *FLAGS)
        assert (ran.status, ran.err) == (0, "")
        assert same_numbers(store, tmp_path / "again.zarr")
        assert Run(tmp_path / "again.zarr").info.signature == Run(store).info.signature
        for arguments, part in ((["--model", "tiny/other"], "--text pydoc"), (["--model", MODEL], "use --text pydoc")):
            ran = process.run(*arguments, "--store", tmp_path / "new.zarr", *FLAGS)
            assert ran.status == 2
            assert "ConnectError" in ran.err
            assert part in ran.err
            assert ran.seconds < SOON_SECONDS
            assert not (tmp_path / "new.zarr").exists()


@pytest.mark.slow
def test_offline_is_the_cache_alone(run: Callable[..., Ran], hub: Hub, home: Path, tmp_path: Path) -> None:
    """As HF_HUB_OFFLINE says; a store of the Hub's is continued, and the Hub is asked for nothing."""
    store, cached = tmp_path / "run.zarr", "tiny/cached"
    hub.add("model", cached, write_checkpoint(tmp_path / "sharded", "qwen3", sharded=True))
    assert run("--model", cached, "--text", "pydoc", "--store", store).status == 0
    before = tree(store)
    uncommit(store, 1)
    hub.requests.clear()
    with CaptureProcess(hub.environment(home, HF_HUB_OFFLINE="1")) as process:
        ran = process.run("--model", cached, "--text", "pydoc", "--store", store, *FLAGS)
        assert (ran.status, ran.err) == (0, "")
        assert tree(store) == before
        missing = ["--store", tmp_path / "new.zarr", "--text", "pydoc", *FLAGS]
        for model, wanted in (["tiny/other"], "it"), ([cached, "--revision", "next"], "revision next"):
            ran = process.run("--model", *model, *missing)
            assert ran.status == 2
            assert f"{model[0]} is not fetched from the Hub, as HF_HUB_OFFLINE is set, and its cache" in ran.err
            assert f"does not hold {wanted} whole" in ran.err
        next(home.rglob("models--tiny--cached/snapshots/*/model-00001-of-00003.safetensors")).unlink()
        ran = process.run("--model", cached, *missing)
        assert ran.status == 2
        assert "its cache does not hold" in ran.err
    assert hub.requests == []
    assert not (tmp_path / "new.zarr").exists()
