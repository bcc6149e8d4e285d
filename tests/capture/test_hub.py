"""Models and text from a Hub: a real server on this machine, the real clients, in a process of their own."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from capture.text import parse_text
from schemas import Run
from schemas.run import RunWriter
from tests.capture.captures import capture
from tests.capture.process import CaptureProcess, Ran
from tests.capture.refused import tree
from tests.checkpoints import write_checkpoint
from tests.hub import Hub, commit

MODEL, FLAGS = "tiny/Qwen3-Tiny", ("--sequences", 2, "--length", 32, "-q")
FINEWEB = "HuggingFaceFW/fineweb-edu"
SOON_SECONDS = 15
CARD = """---
configs:
- config_name: default
  data_files: [{split: train, path: data/*/*}]
- config_name: sample-10BT
  data_files: [{split: train, path: sample/10BT/*}]
---
# The shape of FineWeb-Edu's card
"""


def fineweb(folder: Path) -> Path:
    """A dataset with FineWeb-Edu's layout and columns; each document says which file it came from."""
    (folder / "README.md").parent.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for name in ("data/CC-MAIN-2013-20/train-00000.parquet", "sample/10BT/000.parquet", "sample/10BT/001.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        texts = [f"{name}, document {number}: {'words and ' * 9}more" for number in range(30)]
        rows = {"text": texts, "id": [str(n) for n in range(30)], "score": [3.0] * 30, "int_score": [3] * 30}
        parquet.write_table(pa.table(rows), folder / name, row_group_size=10)
    return folder


def notes(folder: Path) -> Path:
    """A dataset of JSON lines with two splits."""
    folder.mkdir()
    for split in ("train", "validation"):
        rows = [{"title": f"{split} {n}", "body": f"The {split} note number {n}. " * 8} for n in range(20)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the process keeps what it downloads."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
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


def same_numbers(store: Path, other: Path) -> bool:
    """Whether two stores hold the same arrays."""
    names = sorted(Run(store).group.array_keys())
    assert names == sorted(Run(other).group.array_keys())
    return all(np.array_equal(Run(store).read(n), Run(other).read(n), equal_nan=n == "token_nll") for n in names)


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


def test_fineweb_edu_is_the_default_text(
    run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    store, folder = tmp_path / "run.zarr", hub.repositories["dataset", FINEWEB].folder
    ran = run("--model", checkpoint("qwen3"), "--store", store)
    assert (ran.status, ran.err) == (0, "")
    corpus = Run(store).info.corpus
    assert (corpus.source, corpus.config, corpus.split, corpus.column) == (FINEWEB, "sample-10BT", "train", "text")
    assert corpus.revision == hub.repositories["dataset", FINEWEB].sha
    assert not [request for request in hub.requests if request.endswith("001.parquet")]  # two windows need one file
    assert capture(checkpoint("qwen3"), tmp_path / "local.zarr", folder / "sample/10BT/000.parquet", *FLAGS) == 0
    assert same_numbers(store, tmp_path / "local.zarr")


def test_a_dataset_is_streamed_by_split_and_column(
    run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = hub.repositories["dataset", "tiny/notes"].folder
    name = "tiny/notes,config=default,split=validation,column=body"
    assert run("--model", checkpoint("qwen3"), "--store", tmp_path / "run.zarr", "--text", name).status == 0
    local = f"{folder / 'validation.jsonl'},column=body"
    assert capture(checkpoint("qwen3"), tmp_path / "local.zarr", Path(local), *FLAGS) == 0
    assert same_numbers(tmp_path / "run.zarr", tmp_path / "local.zarr")
    corpus = Run(tmp_path / "run.zarr").info.corpus
    assert (corpus.config, corpus.split, corpus.column) == ("default", "validation", "body")


def test_a_seed_shuffles_a_stream_the_same_way_every_time(
    run: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    digests = []
    for number, seed in enumerate((["--seed", 1], ["--seed", 1], ["--seed", 2], [])):
        store = tmp_path / f"{number}.zarr"
        assert (
            run("--model", checkpoint("qwen3"), "--store", store, "--text", "tiny/notes,column=body", *seed).status == 0
        )
        digests.append(Run(store).info.corpus.token_sha256)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_resuming_does_not_stream_again(
    run: Callable[..., Ran], hub: Hub, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = ["--model", checkpoint("qwen3"), "--store", tmp_path / "run.zarr", "--text", "tiny/notes,column=body"]
    assert run(*arguments).status == 0
    whole = shutil.copytree(tmp_path / "run.zarr", tmp_path / "whole.zarr")
    uncommit(tmp_path / "run.zarr", 1)
    assert Run(tmp_path / "run.zarr").complete_sequences() == [0]
    hub.requests.clear()
    assert run(*arguments).status == 0
    assert Run(tmp_path / "run.zarr").complete_sequences() == [0, 1]
    assert tree(tmp_path / "run.zarr") == tree(whole)
    for dry in ([], ["--dry-run"]):
        ran = run(*arguments, "--bos", "always", *dry)
        assert ran.status == 2
        assert "  text.bos: 'auto' in the store, 'always' now\n" in ran.err
    assert not [request for request in hub.requests if "notes" in request]


@pytest.fixture(scope="module")
def newer(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with other weights."""
    return write_checkpoint(tmp_path_factory.mktemp("newer") / "model", "qwen3", seed=1)


def uncommit(store: Path, sequence: int) -> None:
    """Leave a sequence to be computed again."""
    RunWriter(store).write("committed", (slice(None), sequence), np.zeros(4, np.uint8))


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


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tiny/missing", ["the Hub has no dataset tiny/missing, or it is private", "HF_TOKEN"]),
        ("fineweb-edu,config=sample-7BT", ["'sample-7BT' not found", "sample-10BT"]),
        ("tiny/notes,split=test,column=body", ["test", "train", "validation"]),
        ("tiny/notes", ["no column 'text'; columns: title, body", "--text tiny/notes,column=NAME"]),
        ("fineweb-edu,column=int_score", ["column 'int_score' holds int, not text"]),
    ],
)
def test_a_dataset_that_cannot_be_had(
    text: str, parts: list[str], refused: Callable[..., str], checkpoint: Callable[[str], Path]
) -> None:
    message = refused("--model", checkpoint("qwen3"), "--text", text)
    assert message.startswith(f"--text {parse_text(text).name}: ")
    assert all(part in message for part in parts), message
    assert "network" not in message


def test_a_gated_dataset_opens_with_a_token(
    refused: Callable[..., str], run: Callable[..., Ran], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    asked = ["--model", checkpoint("qwen3"), "--text", "tiny/gated-notes,column=body"]
    for token in ("", Hub.STRANGER):
        message = refused(*asked, HF_TOKEN=token)
        assert "gated" in message
        assert "HF_TOKEN" in message
    assert run(*asked, "--store", tmp_path / "run.zarr", HF_TOKEN=Hub.TOKEN).status == 0


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
