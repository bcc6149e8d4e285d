"""The same command continues a store: with the same company in each batch, and only where nothing has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from schemas import Run
from tests.capture.captures import SEQUENCES, capture, contents
from tests.checkpoints import write_checkpoint

LENGTH = 16

Take = Callable[..., int]


@pytest.fixture
def take(checkpoint: Callable[[str], Path], text: Path, tmp_path: Path) -> Take:
    """Function that captures into ``run.zarr`` with these further flags; the exit status."""

    def taken(*options: object, model: Path | None = None, store: str = "run.zarr", source: Path = text) -> int:
        folder = model or checkpoint("qwen3_moe")
        return capture(folder, tmp_path / store, source, "--sequences", SEQUENCES, "--length", LENGTH, *options)

    return taken


def uncommit(store: Path, *sequences: int) -> None:
    """As a kill would leave it: no entry in the log, and of each of these sequences one slice absent, one cut short."""
    for sequence in sequences:
        (store / f"committed/c.0.{sequence}").unlink()
        (store / f"ln_attn/c.2.{sequence}.0.0").unlink()
        os.truncate(store / f"ln_mlp/c.1.{sequence}.0.0", 5)


def slices(store: Path) -> dict[tuple[str, int], int]:
    """(file, its sequence) -> when it was last written, for every hidden state."""
    return {(str(file), int(file.name.split(".")[2])): file.stat().st_mtime_ns for file in store.glob("ln_*/c.*.*.*.*")}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("absent", [{1}, {0, 2}])
def test_what_was_not_committed_is_made_again_in_the_same_bits(
    absent: set[int], batch_size: int, take: Take, tmp_path: Path
) -> None:
    store = tmp_path / "run.zarr"
    assert take("--batch-size", batch_size) == 0
    whole, before = contents(store), slices(store)
    uncommit(store, *absent)
    assert take("--batch-size", batch_size) == 0
    assert contents(store) == whole
    after = slices(store)
    assert {sequence for (file, sequence), written in before.items() if after[file, sequence] != written} == absent


def test_the_default_batch_size_is_the_stores(take: Take, tmp_path: Path) -> None:
    assert take("--batch-size", 2) == 0
    whole = contents(tmp_path / "run.zarr")
    uncommit(tmp_path / "run.zarr", 1)
    assert take() == 0
    assert contents(tmp_path / "run.zarr") == whole
    assert Run(tmp_path / "run.zarr").info.software.batch_size == 2


def test_another_batch_size_is_refused_with_the_command_that_continues(
    take: Take, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take("--batch-size", 2) == 0
    before = contents(tmp_path / "run.zarr")
    uncommit(tmp_path / "run.zarr", 1)
    assert take("--batch-size", 1) == 2
    message = capsys.readouterr().err
    assert "batch_size: 2 in the store, 1 now" in message
    assert "--batch-size 2 " in message.replace("\n", " ")
    assert take("--batch-size", 1, "--overwrite") == 0
    assert Run(tmp_path / "run.zarr").info.software.batch_size == 1
    assert contents(tmp_path / "run.zarr").keys() == before.keys()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run.zarr")] == ["run.zarr"]


def test_a_batch_larger_than_the_run_is_the_whole_run(take: Take, tmp_path: Path) -> None:
    assert take("--batch-size", 99) == 0
    assert Run(tmp_path / "run.zarr").info.software.batch_size == SEQUENCES
    assert take() == 0
    assert take("--batch-size", 7) == 0  # larger still: the same batches


def test_a_complete_store_is_left_alone(take: Take, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert take() == 0
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "run.zarr").rglob("*")}
    summary = capsys.readouterr().out
    assert take() == 0
    again = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run.zarr").rglob("*")} == first
    assert "(nothing to compute)" in again
    for line in ("tokens", "compressed", "perplexity", "non-finite", "next"):
        assert [row for row in again.splitlines() if row.startswith(line)] == [
            row for row in summary.splitlines() if row.startswith(line)
        ]


def test_what_killed_writers_left_is_swept(take: Take, tmp_path: Path) -> None:
    assert take() == 0
    whole = contents(tmp_path / "run.zarr")
    uncommit(tmp_path / "run.zarr", 2)
    (tmp_path / "run.zarr/ln_attn/c.0.0.0.0.0123abcd.partial").write_bytes(b"half")
    assert take() == 0
    assert contents(tmp_path / "run.zarr") == whole


def test_everything_that_decides_the_numbers_must_be_the_same(
    take: Take, text: Path, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take() == 0
    before = contents(tmp_path / "run.zarr")
    folder = tmp_path / "qwen3_moe"  # same name and configuration, other weights
    write_checkpoint(folder, "qwen3_moe", seed=1)
    other = tmp_path / text.name
    other.write_text("Once more, " + text.read_text())
    changes: list[tuple[int, list[str]]] = [
        (take(model=folder), ["model.weights"]),
        (take(source=other), ["text.token_sha256"]),
        (take("--sites", "ln_attn"), ["sites"]),
        (take("--dtype", "float16"), ["model.dtype"]),
        (take("--bos", "always"), ["text.bos:", "text.bos_added", "text.bos_token_id", "text.token_sha256"]),
        (take("--overlap", "50%"), ["text.overlap", "text.token_sha256"]),
        (take(model=checkpoint("qwen3")), ["model.id", "model.weights", "model.config", "experts"]),
    ]
    messages = capsys.readouterr().err.split("capture: error: ")[1:]
    assert len(messages) == len(changes)
    for (status, keys), message in zip(changes, messages, strict=True):
        assert status == 2
        listed = [line.strip() for line in message.splitlines() if " in the store, " in line]
        assert [key for key in keys if not any(line.startswith(key) for line in listed)] == []
        assert len(listed) == len(keys), message
    assert contents(tmp_path / "run.zarr") == before


def test_a_moved_model_or_text_file_is_the_same(
    take: Take, checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    assert take() == 0
    uncommit(tmp_path / "run.zarr", 0)
    moved = shutil.copytree(checkpoint("qwen3_moe"), tmp_path / "elsewhere" / "qwen3_moe")
    source = shutil.copy(text, tmp_path / "elsewhere" / text.name)
    assert take(model=moved, source=Path(source)) == 0
    assert Run(tmp_path / "run.zarr").committed().all()


def test_batches_of_other_sizes_agree_closely(take: Take, tmp_path: Path) -> None:
    for batch_size in (1, 3):
        assert take("--batch-size", batch_size, "--dtype", "float32", store=f"{batch_size}.zarr") == 0
    one, three = (Run(tmp_path / f"{batch_size}.zarr") for batch_size in (1, 3))
    np.testing.assert_array_equal(one.read("token_id"), three.read("token_id"))
    np.testing.assert_allclose(one.read("ln_mlp"), three.read("ln_mlp"), rtol=1e-3, atol=1e-4)
