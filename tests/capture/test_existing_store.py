"""What is at ``--store`` already: continued, refused with what differs, replaced when asked, and never deleted else."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from capture.cli import main
from schemas import Run, open_run
from schemas.errors import CorruptChunkError
from schemas.run_writer import RunWriter
from tests.capture.captures import capture, contents
from tests.capture.refused import as_nobody, refused, tree
from tests.checkpoints import write_checkpoint

FLAGS = ("--sequences", 2, "--length", 16)


@pytest.fixture
def folder(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("qwen3")


@pytest.fixture(scope="module")
def finished(
    checkpoint: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Path]:
    """Function that puts a finished store at a path."""
    original = tmp_path_factory.mktemp("finished") / "run.zarr"
    assert capture(checkpoint("qwen3"), original, text, *FLAGS) == 0
    return lambda path: shutil.copytree(original, path)


@pytest.fixture
def store(finished: Callable[[Path], Path], tmp_path: Path) -> Path:
    return finished(tmp_path / "run.zarr")


def test_a_finished_store_is_left_as_it_is(
    folder: Path, store: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(store)
    arguments = ["--model", folder, "--store", store, "--text", text, *FLAGS]
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr()
    assert "is complete already; nothing to compute" in printed.err
    assert f"analyze --store {store} --magnitude 2:7:1" in printed.out
    assert tree(store) == before


@pytest.mark.parametrize(
    ("arguments", "key", "was", "now"),
    [
        (["--length", 8], "text.length", 16, 8),
        (["--sequences", 3], "text.sequences", 2, 3),
        (["--overlap", "50%"], "text.overlap", "0%", "50%"),
        (["--bos", "always"], "text.bos", "auto", "always"),
        (["--seed", 4], "text.shuffle_seed", None, 4),
        (["--dtype", "float32"], "model.dtype", "bfloat16", "float32"),
        (["--batch-size", 2], "batch_size", 1, 2),
        (["--sites", "ln_mlp"], "sites", "ln_attn,ln_mlp", "ln_mlp"),
        (["--text", "pydoc"], "text.source", "prose.txt", "pydoc_data.topics"),
    ],
)
def test_other_settings_are_refused_with_what_differs(
    arguments: list[object],
    key: str,
    was: object,
    now: object,
    folder: Path,
    store: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tree(store)
    asked = ["--model", folder, "--store", store, "--text", text, *FLAGS, "-q", *arguments]
    message = refused(capsys, *asked)
    assert f"  {key}: {was!r} in the store, {now!r} now" in message.splitlines()
    assert "--overwrite" in message
    assert tree(store) == before
    assert main([str(word) for word in (*asked, "--dry-run")]) == 2
    assert capsys.readouterr().err == f"capture: error: {message}\n"


def test_another_model_is_refused(
    folder: Path, store: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(store)
    other = write_checkpoint(tmp_path / folder.name, "qwen3", seed=1)
    message = refused(capsys, "--model", other, "--store", store, "--text", text, *FLAGS, "-q")
    differing = [line.split(":")[0].strip() for line in message.splitlines() if " in the store, " in line]
    assert differing == ["model.weights"]
    assert tree(store) == before


def test_text_that_changed_is_refused(folder: Path, store: Path, text: Path, tmp_path: Path) -> None:
    changed = tmp_path / text.name
    changed.write_text(text.read_text().replace("bright", "dull"))
    before = tree(store)
    assert capture(folder, store, changed, *FLAGS) == 2
    assert tree(store) == before


def test_the_refusal_names_a_command_that_continues(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the command that it prints, as printed, on a store that lacks a sequence and has been moved."""
    monkeypatch.chdir(tmp_path)
    spaced = shutil.copytree(folder, tmp_path / "a model")
    assert capture(spaced, Path("a run.zarr"), text, *FLAGS) == 0
    Path("a run.zarr").rename("moved run.zarr")
    whole = contents(Path("moved run.zarr"))
    RunWriter("moved run.zarr").write("committed", (slice(None), 1), np.zeros(4, np.uint8))
    assert Run("moved run.zarr").complete_sequences() == [0]
    message = refused(capsys, "--model", spaced, "--store", "moved run.zarr", "--text", text, "--length", 8, "-q")
    line = next(line for line in message.splitlines() if line.startswith("Continue it with: "))
    words = shlex.split(line.removeprefix("Continue it with: "))
    assert words[0] == "capture"
    assert main(words[1:]) == 0
    assert contents(Path("moved run.zarr")) == whole
    assert not Path("a run.zarr").exists()


def test_overwrite_replaces_a_store(folder: Path, store: Path, text: Path, tmp_path: Path) -> None:
    assert capture(folder, store, text, *FLAGS, "--length", 8, "--overwrite") == 0
    assert Run(store).dimensions.positions == 8
    assert Run(store).complete_sequences() == [0, 1]
    assert "--overwrite" not in Run(store).info.command
    assert [path.name for path in tmp_path.iterdir()] == [store.name]


def test_overwrite_keeps_a_store_that_cannot_be_replaced(folder: Path, store: Path, text: Path, tmp_path: Path) -> None:
    """The new capture fails before the old store is given up."""
    before = tree(store)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    for arguments in (["--length", 10_000], ["--sequences", 10_000], ["--sites", "x"], ["--text", "missing.txt"]):
        assert capture(folder, store, text, *FLAGS, "--overwrite", *arguments) == 2
    assert capture(damaged, store, text, *FLAGS, "--overwrite") == 2
    assert tree(store) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("what", ["folder", "empty folder", "file", "another Zarr group", "damaged attributes"])
def test_what_is_no_run_store_is_never_deleted(
    what: str, overwrite: bool, folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "thesis"
    if what == "file":
        there.write_text("chapter one")
    else:
        there.mkdir()
    if what == "folder":
        (there / "chapter.txt").write_text("chapter one")
    elif what == "another Zarr group":
        (there / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"by": "someone"}}')
    elif what == "damaged attributes":
        (there / "zarr.json").write_text('{"zarr_format": 3')
    before = tree(tmp_path)
    flags = [*FLAGS, "-q", *(["--overwrite"] if overwrite else [])]
    message = refused(capsys, "--model", folder, "--store", there, "--text", text, *flags)
    assert f"--store {there}" in message
    assert tree(tmp_path) == before


def test_a_store_of_a_newer_version_is_replaced_only_when_asked(
    folder: Path, store: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"]["format_version"] = "2.0"
    (store / "zarr.json").write_text(json.dumps(root))
    before = tree(store)
    message = refused(capsys, "--model", folder, "--store", store, "--text", text, *FLAGS, "-q")
    assert "format version 2.0" in message
    assert tree(store) == before
    assert capture(folder, store, text, *FLAGS, "--overwrite") == 0
    assert Run(store).info.format_version.startswith("1.")


@pytest.mark.parametrize("store", ["file.txt/run.zarr", "file.txt/a/b/run.zarr", "x" * 300])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_place_where_nothing_can_be_made(
    store: str, more: list[str], folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.txt").write_text("in the way")
    before = tree(tmp_path)
    message = refused(capsys, "--model", folder, "--store", tmp_path / store, "--text", text, *FLAGS, "-q", *more)
    assert "cannot write" in message
    assert "--store" in message
    assert tree(tmp_path) == before


def test_a_file_system_without_room(folder: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--store", "/proc/run.zarr", "--text", text, *FLAGS, "-q"]
    assert "0 B is free" in refused(capsys, "--model", folder, *flags, status=1)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_permission_to_write(
    mode: int, folder: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as place:  # not below pytest's own, where other users may not look at all
        Path(place).chmod(0o755)
        model = shutil.copytree(folder, Path(place, "model"))
        prose = shutil.copy(text, place)
        shut = Path(place, "shut")
        shut.mkdir()
        shut.chmod(mode)
        with as_nobody():
            message = refused(capsys, "--model", model, "--store", shut / "run.zarr", "--text", prose, *FLAGS, "-q")
        shut.chmod(0o755)
        assert not list(shut.iterdir())
    assert "cannot write" in message
    assert f"no permission to write in {shut}" in message


@pytest.mark.parametrize("array", ["ln_mlp", "ln_attn_layer_peak", "token_id"])
def test_a_flipped_byte_is_named_when_it_is_read(array: str, store: Path) -> None:
    chunk = sorted(path for path in (store / array).rglob("*") if path.is_file() and path.name != "zarr.json")[-1]
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 0x10
    chunk.write_bytes(data)
    dataset = open_run(store)
    with pytest.raises(CorruptChunkError, match="is damaged") as caught:
        dataset[array].load()
    assert str(chunk.relative_to(store)) in str(caught.value)
    assert str(store) in str(caught.value)
    others = [name for name in dataset if name != array and str(name).startswith("ln_")]
    assert all(not np.isnan(dataset[name].values).any() for name in others)
