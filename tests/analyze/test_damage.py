"""Stores that are partial, damaged or no stores: named, refused with status 2, and never answered wrongly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from analyze import sweep
from analyze.resources import Resources
from schemas.errors import CorruptChunkError
from schemas.run import Run
from schemas.run_writer import RunWriter
from schemas.token_text import token_texts
from tests.analyze.conftest import Command
from tests.stores import as_stored, write_store

RANDOM = np.random.default_rng(11).normal(0, 6, (3, 4, 6, 5)).astype(np.float32)
ENGINES = ("peaks", "slices")


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """Four sequences of three layers; two cells of sequence 1 and one of sequence 3 are missing."""
    path = tmp_path / "partial.zarr"
    write_store(path, {"ln_attn": RANDOM}, missing=[(0, 1), (2, 1), (1, 3)])
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_partial_store_is_refused_with_what_finishes_it(analyze: Command, partial: Path, engine: str) -> None:
    status, out, err = analyze("--store", partial, "--engine", engine)
    assert (status, out) == (2, "")
    assert "is partial: 3 of its 12 (layer, sequence) cells are missing and 2 of 4 sequences are complete" in err
    assert f"Finish it with: capture --model 'tiny model' --store {partial}" in err
    assert "--partial" in err


@pytest.mark.parametrize(
    "command",
    [
        ["capture", "--model", "tiny model", "--length", "6"],
        ["capture", "--store", "there/run.zarr", "-q", "--model", "tiny model", "--length", "6"],
        ["capture", "--model", "tiny model", "--quiet", "--store=there/run.zarr", "--length", "6"],
    ],
)
def test_what_finishes_a_store_works_from_here(
    analyze: Command, partial: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Wherever the store was when its command was recorded, and whether or not that said so."""
    zarr.open_group(partial).attrs["command"] = command
    monkeypatch.chdir(partial.parent)
    _, _, err = analyze("--store", partial.name)
    assert f"Finish it with: capture --model 'tiny model' --length 6 --store {partial.name} --" in err


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("definition", ["moe-table", "llm-int8", "majority"])
def test_partial_analyses_the_complete_sequences(
    analyze: Command, partial: Path, tmp_path: Path, engine: str, definition: str
) -> None:
    """The same as a store of those sequences alone, but for what they are called."""
    write_store(tmp_path / "alone.zarr", {"ln_attn": RANDOM[:, [0, 2]]})
    asked = ("--definition", definition, "--format", "json", "--engine", engine)
    _, alone, _ = analyze("--store", tmp_path / "alone.zarr", *asked)
    status, out, _ = analyze("--store", partial, "--partial", *asked)
    assert status == 0
    (found,), (told,) = json.loads(out)["results"], json.loads(alone)["results"]
    assert (found["partial"], found["sequences"], found["sequences_in_store"]) == (True, [0, 2], 4)
    assert (told["partial"], told["sequences"], told["sequences_in_store"]) == (False, [0, 1], 2)
    names = {0: 0, 1: 2, None: None}
    for feature in told["features"]:
        feature["sequence"] = names[feature["sequence"]]
    apart = {"store", "partial", "sequences", "sequences_in_store"}
    assert {k: v for k, v in found.items() if k not in apart} == {k: v for k, v in told.items() if k not in apart}
    assert found["outliers"] > 0


def test_a_table_of_a_partial_store_says_so(analyze: Command, partial: Path) -> None:
    _, out, _ = analyze("--store", partial, "--partial")
    assert "the 2 complete ones of 4 sequences (the store is partial)" in " ".join(out.split())


def test_a_complete_store_is_not_called_partial(analyze: Command, noisy_store: Path) -> None:
    _, out, _ = analyze("--store", noisy_store, "--partial")
    assert "the store is partial" not in " ".join(out.split())


def test_no_complete_sequence_leaves_nothing_to_analyse(analyze: Command, tmp_path: Path) -> None:
    write_store(tmp_path / "run.zarr", {"ln_attn": RANDOM[:, :1]}, complete=False)
    status, out, err = analyze("--store", tmp_path / "run.zarr", "--partial")
    assert (status, out) == (2, "")
    assert "0 of 1 sequence is complete" in err
    assert "--partial" not in err


def flip_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("arguments", "chunk", "place"),
    [
        ((), "ln_mlp_layer_peak/c.1.2.0", "layer 1, sequence 2"),
        ((), "ln_attn_position_peak/c.2.0.0", "sequence 2"),
        (("--engine", "slices"), "ln_mlp/c.1.2.0.0", "layer 1, sequence 2"),
        (("--details",), "ln_attn/c.0.3.0.0", "layer 0, sequence 3"),
    ],
)
@pytest.mark.parametrize("harm", [flip_byte, Path.unlink])
def test_a_damaged_chunk_is_named(
    analyze: Command,
    noisy_store: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    chunk: str,
    place: str,
    harm: object,
) -> None:
    store = tmp_path / "damaged.zarr"
    shutil.copytree(noisy_store, store)
    harm(store / chunk)  # type: ignore[operator]
    status, out, err = analyze("--store", store, "--quiet", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("analyze: error: ")
    assert f"chunk {chunk} ({place})" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_chunk_is_one_line_of_error(tmp_path: Path, engine: str) -> None:
    """The other chunks of a failed read are waited for: their tasks would complain when the process ends."""
    write_store(tmp_path / "r", {"ln_attn": np.ones((40, 2, 8, 512), np.float32)})
    name = "ln_attn_layer_peak/c.0.1.0" if engine == "peaks" else "ln_attn/c.0.1.0.0"
    (tmp_path / "r" / name).write_bytes(b"")
    command = [sys.executable, "-m", "analyze", "--store", str(tmp_path / "r"), "--engine", engine, "-q"]
    for _ in range(4 if engine == "peaks" else 1):
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr == (
            f"analyze: error: {tmp_path / 'r'}: chunk {name} (layer 0, sequence 1) is damaged: its checksum does not "
            "match. Restore that file from a copy, or capture the run again with --overwrite\n"
        )


def test_what_is_skipped_as_damaged_is_said_with_what_it_means(
    analyze: Command, noisy_store: Path, tmp_path: Path
) -> None:
    """Damaged peaks are not, and the engine that answers is named; a number that rests on nothing else is left out."""
    store = tmp_path / "damaged.zarr"
    shutil.copytree(noisy_store, store)
    harmed = ("ln_mlp_layer_peak/c.1.2.0", "ln_mlp/c.1.2.0.0", "token_nll/c.2.0", "ln_attn_nonfinite/c.0.2")
    for chunk in harmed:
        flip_byte(store / chunk)
    asked = ("--store", store, "--skip-corrupt", "-q")
    for more in ((), ("--format", "csv"), ("--magnitude", "4:8:1")):
        status, _, err = analyze(*asked, *more)
        assert status == 2
        assert "answer from those, with --engine slices" in err
    with pytest.raises(CorruptChunkError, match="with --engine slices"):
        sweep(store, 6, resources=Resources(skip_corrupt=True))
    status, out, _ = analyze(*asked, "--engine", "slices", "--format", "json")
    (found,) = json.loads(out)["results"]
    assert status == 0
    assert found["excluded_cells"] == ["ln_mlp of layer 1, sequence 2"]
    assert "are of all cells" in found["excluded_as"]
    assert found["definition"]["layers_total"] == 10
    assert found["perplexity"] is None
    assert "token_nll/c.2.0" in found["perplexity_unread"]
    _, text, _ = analyze(*asked, "--engine", "slices")
    assert "perplexity left out:" in text
    assert "sequence 2. Shares of layers and positions are of all cells, these too." in " ".join(text.split())
    _, out, _ = analyze(*asked, "--by", "layer", "--format", "json")
    assert "of the values and tokens that could be read" in json.loads(out)["tables"][0]["excluded_as"]
    _, out, _ = analyze(*asked, "--criteria", "kurtosis", "--format", "json")
    (table,) = json.loads(out)["tables"]
    assert table["nonfinite"] is None
    assert "that could be read" in table["excluded_as"]
    assert "how many values are NaN or infinite: " in table["excluded"][-1]


def test_peaks_answer_beside_damaged_slices(analyze: Command, noisy_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "damaged.zarr"
    shutil.copytree(noisy_store, store)
    flip_byte(store / "ln_mlp/c.1.2.0.0")
    status, out, _ = analyze("--store", store, "--format", "csv", "-q")
    assert status == 0
    _, told, _ = analyze("--store", noisy_store, "--format", "csv", "-q")
    assert out.splitlines()[1].split(",")[1:] == told.splitlines()[1].split(",")[1:]


def test_damaged_token_texts_are_named_as_any_chunk_is(tmp_path: Path) -> None:
    write_store(tmp_path / "run.zarr", {"ln_attn": RANDOM}, token_text={0: "word"})
    flip_byte(tmp_path / "run.zarr/token_text/c.0")
    with pytest.raises(CorruptChunkError, match=r"chunk token_text/c\.0 .*its checksum does not match"):
        token_texts(Run(tmp_path / "run.zarr"))


def test_slices_that_contradict_their_count_of_nan_are_refused(analyze: Command, tmp_path: Path) -> None:
    """Another cell's file under this one's name has a good checksum; what it holds does not fit."""
    store = tmp_path / "run.zarr"
    write_store(store, {"ln_attn": RANDOM})
    cell = RANDOM[1, 2].copy()
    cell[0, 0] = np.nan
    RunWriter(store).write("ln_attn", (1, 2), as_stored(cell, "bfloat16"))
    status, _, err = analyze("--store", store, "--engine", "slices")
    assert status == 2
    assert "ln_attn of layer 1, sequence 2 has 1 non-finite value and the store says 0" in err


def test_a_peak_that_was_never_written_is_refused(analyze: Command, tmp_path: Path) -> None:
    """A NaN pattern in a peak array can only be fill."""
    store = tmp_path / "run.zarr"
    write_store(store, {"ln_attn": RANDOM})
    RunWriter(store).write("ln_attn_layer_peak", (1, 2), np.full(5, 0x7FC0, np.uint16))
    status, _, err = analyze("--store", store)
    assert status == 2
    assert "ln_attn_layer_peak of sequence 2 has values that were never written" in err


@pytest.mark.parametrize("kind", ["absent", "file", "folder", "array"])
def test_what_is_no_store_is_refused(analyze: Command, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.write_text("not a store")
    elif kind == "folder":
        path.mkdir()
    elif kind == "array":
        path.mkdir()
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    status, out, err = analyze("--store", path)
    assert (status, out) == (2, "")
    assert str(path) in err
    assert "capture" in err
