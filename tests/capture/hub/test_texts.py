"""Text from datasets of a Hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from capture.text import parse_text
from schemas import Run
from tests.capture.captures import capture
from tests.capture.hub.repositories import FINEWEB, FLAGS, same_numbers, uncommit
from tests.capture.process import Ran
from tests.capture.refused import tree
from tests.hub import Hub


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
