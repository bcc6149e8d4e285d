"""Models of a Hub: a real server on this machine, the real client in a process of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas import Run
from tests.capture.captures import capture
from tests.capture.hub.repositories import FLAGS, MODEL, same_numbers, uncommit
from tests.capture.process import Ran
from tests.capture.refused import tree
from tests.checkpoints import write_checkpoint
from tests.hub import Hub, commit


def test_a_model_is_downloaded_and_its_commit_recorded(
    run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    store, text = tmp_path / "run.zarr", tmp_path / "notes.txt"
    text.write_text("Some words to read. " * 40)
    ran = run("--model", MODEL, "--store", store, "--text", text)
    assert (ran.status, ran.err) == (0, "")
    model = Run(store).info.model
    assert (model.name, model.id) == (MODEL, MODEL)
    assert model.revision == hub.repositories["model", MODEL].sha
    assert Run(store).info.signature["model.revision"] == model.revision
    fetched = {request.rsplit("/", 1)[1] for request in hub.requests if request.startswith(f"GET /{MODEL}/resolve/")}
    assert fetched == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert not [request for request in hub.requests if "onnx" in request]
    assert capture(checkpoint("qwen3"), tmp_path / "local.zarr", text, *FLAGS) == 0
    assert same_numbers(store, tmp_path / "local.zarr")


def test_a_repository_that_lacks_a_shard(refused: Callable[..., str], hub: Hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "lacking", "qwen3", sharded=True)
    (folder / "model-00002-of-00003.safetensors").unlink()
    hub.add("model", "tiny/lacking", folder)
    message = refused("--model", "tiny/lacking", "--text", "pydoc")
    assert "1 of 3 shards named in its index are not in the repository, first model-00002-of-00003" in message
    (folder / "model.safetensors.index.json").write_text("{")
    assert "index.json is not a readable index of shards" in refused("--model", "tiny/lacking", "--text", "pydoc")
    assert not [request for request in hub.requests if request.endswith(".safetensors")]


def test_a_dry_run_fetches_no_weights(run: Callable[..., Ran], hub: Hub, home: Path, tmp_path: Path) -> None:
    hub.add("model", "tiny/unseen", hub.repositories["model", MODEL].folder)
    ran = run("--model", "tiny/unseen", "--store", tmp_path / "run.zarr", "--dry-run")
    assert (ran.status, ran.err) == (0, "")
    assert "Qwen3ForCausalLM, 4 layers" in ran.out
    assert [request for request in hub.requests if "config.json" in request]
    assert not [request for request in hub.requests if "safetensors" in request or "datasets" in request]
    assert not (tmp_path / "run.zarr").exists()
    cache = home / "hub" / "models--tiny--unseen"
    assert list(cache.rglob("config.json"))
    assert not list(cache.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def newer(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with other weights."""
    return write_checkpoint(tmp_path_factory.mktemp("newer") / "model", "qwen3", seed=1)


def test_a_resumed_capture_stays_at_its_commit(
    run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], newer: Path, tmp_path: Path
) -> None:
    store, older = tmp_path / "run.zarr", checkpoint("qwen3")
    repository = hub.add("model", "tiny/moving", older)
    arguments = ["--model", "tiny/moving", "--store", store, "--text", "pydoc"]
    assert run(*arguments).status == 0
    before = tree(store)
    moved = hub.add("model", "tiny/moving", newer, earlier=(older,))
    uncommit(store, 1)
    assert run(*arguments).status == 0
    assert tree(store) == before
    assert Run(store).info.model.revision == repository.sha

    ran = run(*arguments, "--revision", "main")
    assert ran.status == 2
    assert f"model.revision: {repository.sha!r} in the store, {moved.sha!r} now" in ran.err
    assert "model.weights: " in ran.err
    assert tree(store) == before

    assert run("--model", "tiny/moving", "--store", tmp_path / "new.zarr", "--text", "pydoc").status == 0
    assert Run(tmp_path / "new.zarr").info.model.revision == moved.sha
    assert not same_numbers(store, tmp_path / "new.zarr")


def test_a_branch_or_a_commit_can_be_asked_for(
    run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], newer: Path, tmp_path: Path
) -> None:
    repository = hub.add("model", "tiny/branched", checkpoint("qwen3"), other={"next": newer})
    next_sha = commit(newer)
    for number, (revision, sha) in enumerate([("next", next_sha), (repository.sha, repository.sha), (next_sha,) * 2]):
        store = tmp_path / f"{number}.zarr"
        ran = run("--model", "tiny/branched", "--revision", revision, "--store", store, "--text", "pydoc")
        assert (ran.status, ran.err) == (0, "")
        info = Run(store).info
        assert info.model.revision == info.signature["model.revision"] == sha
        assert ["--revision", revision] == info.command[3:5]
    assert same_numbers(tmp_path / "0.zarr", tmp_path / "2.zarr")
    assert not same_numbers(tmp_path / "0.zarr", tmp_path / "1.zarr")


@pytest.mark.parametrize("revision", ["nowhere", "0" * 40])
def test_a_revision_that_is_not_there(revision: str, refused: Callable[..., str]) -> None:
    message = refused("--model", MODEL, "--revision", revision, "--text", "pydoc")
    assert f"{MODEL} has no revision {revision}: give --revision a branch, a tag or the full hash" in message


def test_the_weights_of_a_commit_are_known_by_their_digests(
    run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """As the Hub lists them: nothing is read for it."""
    assert run("--model", MODEL, "--store", tmp_path / "run.zarr", "--text", "pydoc").status == 0
    lines = [
        ["model.safetensors", hashlib.sha256((checkpoint("qwen3") / "model.safetensors").read_bytes()).hexdigest()]
    ]
    expected = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    info = Run(tmp_path / "run.zarr").info
    assert info.model.weights == info.signature["model.weights"] == expected


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """huggingface_hub keeps whole pieces of 10 MiB; the file is made larger by a tensor that no model has."""
    folder = shutil.copytree(checkpoint("qwen3"), tmp_path / "model")
    state = load_file(folder / "model.safetensors") | {"unused": torch.zeros(25 * 2**20, dtype=torch.uint8)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    hub.add("model", "tiny/cut", folder)
    hub.cuts["model.safetensors"] = [11 * 2**20, 12 * 2**20]
    assert run("--model", "tiny/cut", "--text", "pydoc", "--store", tmp_path / "run.zarr").status == 0
    assert hub.ranges == [("model.safetensors", 10 * 2**20), ("model.safetensors", 20 * 2**20)]
    assert capture(checkpoint("qwen3"), tmp_path / "local.zarr", Path("pydoc"), *FLAGS) == 0
    assert same_numbers(tmp_path / "run.zarr", tmp_path / "local.zarr")


def test_a_capture_fetches_only_the_shards_that_it_lacks(run: Callable[..., Ran], hub: Hub, tmp_path: Path) -> None:
    """And of several sets of weights in a repository only the one that its index names."""
    folder = write_checkpoint(tmp_path / "sharded", "qwen3", sharded=True)
    (folder / "consolidated.safetensors").write_bytes(b"the same again, in one file")
    hub.add("model", "tiny/sharded", folder)
    arguments = ["--model", "tiny/sharded", "--text", "pydoc", "--store", tmp_path / "run.zarr"]
    last = "model-00003-of-00003.safetensors"
    hub.shut.add(last)
    ran = run(*arguments)
    assert ran.status == 2
    assert "The same command goes on where this one stopped" in ran.err
    hub.shut.clear()
    hub.requests.clear()
    assert run(*arguments).status == 0
    fetched = [request for request in hub.requests if request.endswith(".safetensors") and request.startswith("GET")]
    assert fetched == [f"GET /tiny/sharded/resolve/{commit(folder)}/{last}"]


def test_a_missing_model(refused: Callable[..., str]) -> None:
    message = refused("--model", "tiny/missing", "--text", "pydoc")
    assert "the Hub has no model tiny/missing, or it is private" in message
    assert "HF_TOKEN" in message


def test_a_model_without_safetensors(refused: Callable[..., str], hub: Hub) -> None:
    message = refused("--model", "tiny/pickles", "--text", "pydoc")
    assert "tiny/pickles holds only pickled weights (pytorch_model.bin)" in message
    assert not [request for request in hub.requests if "resolve" in request]


def test_a_repository_that_is_no_checkpoint(refused: Callable[..., str]) -> None:
    assert "tiny/none holds no checkpoint: there is no config.json" in refused(
        "--model", "tiny/none", "--text", "pydoc"
    )


def test_a_gated_model_opens_with_a_token(refused: Callable[..., str], run: Callable[..., Ran], tmp_path: Path) -> None:
    asked = ["--model", "tiny/gated", "--text", "pydoc"]
    for token in ("", Hub.STRANGER):
        message = refused(*asked, HF_TOKEN=token)
        assert "tiny/gated is gated: accept its terms on the Hub, then set HF_TOKEN" in message
    assert run(*asked, "--store", tmp_path / "run.zarr", HF_TOKEN=Hub.TOKEN).status == 0


def test_a_private_model_opens_with_a_token(
    refused: Callable[..., str], run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    hub.add("model", "tiny/private", checkpoint("qwen3"), private=True)
    asked = ["--model", "tiny/private", "--text", "pydoc"]
    for token in ("", Hub.STRANGER):
        message = refused(*asked, HF_TOKEN=token)
        assert "the Hub has no model tiny/private, or it is private: check the name, or set HF_TOKEN" in message
    assert run(*asked, "--store", tmp_path / "run.zarr", HF_TOKEN=Hub.TOKEN).status == 0


def test_a_token_that_the_hub_does_not_know(
    refused: Callable[..., str], run: Callable[..., Ran], tmp_path: Path
) -> None:
    asked = ["--model", MODEL, "--text", "pydoc"]
    message = refused(*asked, HF_TOKEN="hf_wrong")
    assert "the Hub does not know the token that it was given: set HF_TOKEN to another, or to nothing" in message
    assert run(*asked, "--store", tmp_path / "run.zarr", HF_TOKEN="").status == 0
