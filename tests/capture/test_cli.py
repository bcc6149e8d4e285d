"""The command itself: help, ``--dry-run``, what a store says of how it was made, and what is printed at the end.

That it says what to install where torch is missing is tested with the other imports, in tests/schemas.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from capture import preparation
from capture.cli import build_parser, main
from capture.plan import human_bytes
from schemas import Run
from schemas.run import store_bytes
from schemas.token_text import TOKEN_TEXT
from tests.capture.captures import capture
from tests.capture.refused import tree

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "dask", "xarray", "zarr", "numpy", "datasets", "huggingface_hub", "pyarrow"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False, timeout=100
    )


@pytest.fixture
def folder(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("qwen3")


def dry_run(folder: Path, store: Path, text: Path, *flags: object) -> int:
    return capture(folder, store, text, "--dry-run", *flags)


@pytest.mark.parametrize("arguments", [["--help"], ["--nonsense"], []])
def test_flags_are_read_without_importing_anything_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from capture.cli import main
try:
    main({arguments})
except SystemExit as stop:
    status = stop.code
print("STATUS", status, "LOADED", *sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    ran = python("-c", code)
    printed, _, loaded = ran.stdout.rpartition("LOADED")
    assert HEAVY.isdisjoint(loaded.split())
    assert f"STATUS {0 if arguments == ['--help'] else 2}" in printed
    assert ("usage: capture" in printed) == (arguments == ["--help"])
    assert "Traceback" not in ran.stderr


def test_help_names_every_flag_and_preset_and_ends_with_examples() -> None:
    from capture.presets import PRESETS

    printed = build_parser().format_help()
    for action in build_parser()._actions:
        assert all(flag in printed for flag in action.option_strings)
        assert action.help
    assert all(preset in printed for preset in PRESETS)
    assert "examples:" in printed
    examples = [line.strip() for line in printed.splitlines() if line.strip().startswith("capture --")]
    assert len(examples) >= 3
    for line in examples:
        build_parser().parse_args(re.split(r"\s{2,}", line)[0].split()[1:])


def test_python_m_is_the_command() -> None:
    ran = python("-m", "capture.cli", "--model", "qwen3-30", "--text", "pydoc")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("capture: error: --model qwen3-30: no preset")
    assert "Traceback" not in ran.stderr


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sites = "ln_attn,ln_mlp,residual"
    assert dry_run(folder, Path("runs/run.zarr"), text, "--sequences", 3, "--length", 24, "--sites", sites) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "Qwen3ForCausalLM, 4 layers, hidden size 32" in rows["model"]
    assert rows["sites"] == "ln_attn, ln_mlp, residual"
    assert rows["residual"] == "model.layers.* (4 layers)"
    norm = "(rms norm, eps 1e-06, gain weight)"
    assert rows["ln_attn"] == f"model.layers.*.self_attn (4 layers), fed by input_layernorm {norm}"
    assert rows["tokens"] == "3 sequences x 24 = 72"
    assert rows["store"].startswith("runs/run.zarr: ")
    assert rows["dtype"].startswith("bfloat16")
    assert rows["disk"].endswith("free")
    assert "available" in rows["memory"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_the_raw_bytes_that_the_store_then_has(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, flags = tmp_path / "run.zarr", ("--sequences", 3, "--length", 24)
    assert dry_run(folder, store, text, *flags) == 0
    told = re.search(r"store .*: (\S+ \S+) raw", capsys.readouterr().out)
    assert told is not None
    assert capture(folder, store, text, *flags) == 0
    run = Run(store)
    assert told[1] == human_bytes(sum(run.array(name).nbytes for name in run.group.array_keys() if name != TOKEN_TEXT))


def test_a_dry_run_leaves_a_store_that_is_to_be_replaced(folder: Path, text: Path, tmp_path: Path) -> None:
    store, flags = tmp_path / "run.zarr", ("--sequences", 2, "--length", 16)
    assert capture(folder, store, text, *flags) == 0
    before = tree(store)
    assert dry_run(folder, store, text, *flags, "--overwrite") == 0
    assert dry_run(folder, store, text, *flags) == 0
    assert tree(store) == before


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("short", "part"),
    [
        ("memory", "of memory and 1 kB is available: use a smaller model"),
        ("disk", "of disk and 1 kB is free: use fewer"),
    ],
)
def test_what_cannot_fit_is_refused_before_it_starts(
    short: str,
    part: str,
    dry: bool,
    folder: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if short == "memory":
        monkeypatch.setattr(preparation, "available_memory_bytes", lambda device: 1000)
    else:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    flags = ["--sequences", 2, "--length", 16, *(["--dry-run"] if dry else [])]
    assert capture(folder, tmp_path / "run.zarr", text, *flags) == 1
    printed = capsys.readouterr()
    assert part in printed.err
    assert ("memory" in printed.out) == dry
    assert list(tmp_path.iterdir()) == []


def test_a_finished_store_needs_no_room(
    folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, flags = tmp_path / "run.zarr", ("--sequences", 2, "--length", 16)
    assert capture(folder, store, text, *flags) == 0
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    monkeypatch.setattr(preparation, "available_memory_bytes", lambda device: 0)
    assert capture(folder, store, text, *flags) == 0


def test_a_capture_goes_on_when_nobody_reads_what_it_says(
    folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for name in ("stdout", "stderr"):
        stream = open(writer, "w", 1, closefd=False)  # noqa: SIM115
        monkeypatch.setattr(sys, name, stream)
        monkeypatch.setattr(sys, f"__{name}__", stream)
    arguments = ["--model", folder, "--store", tmp_path / "run.zarr", "--text", text, "--sequences", 2, "--length", 16]
    assert main([str(argument) for argument in arguments]) == 0
    assert Run(tmp_path / "run.zarr").complete_sequences() == [0, 1]
    print("dropped", flush=True)
    assert main(["--model", "no/such", "--text", "none"]) == 2
    os.close(writer)


def test_a_store_says_how_it_was_made(folder: Path, text: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    flags = ["--sequences", 2, "--length", 16, "--overlap", "50%", "--bos", "always", "--seed", 5, "--batch-size", 2]
    assert capture(folder, store, text, *flags) == 0
    run = Run(store)
    corpus = run.info.corpus
    assert (corpus.source, corpus.sequences, corpus.length, corpus.overlap) == (text.name, 2, 16, "50%")
    assert (corpus.bos, corpus.bos_added, corpus.bos_token_id, corpus.shuffle_seed) == ("always", True, 1, 5)
    assert (corpus.end_of_text_token, corpus.end_of_text_token_id) == ("<|endoftext|>", 0)
    assert (corpus.documents_read, corpus.tokens_read) == (1, 8 + 15)
    ids = run.read("token_id")
    assert (ids[:, 0] == 1).all()
    assert ids[0, 9:].tolist() == ids[1, 1:8].tolist()
    assert (run.info.model.name, run.info.model.revision, run.info.software.batch_size) == ("qwen3", None, 2)
    words = [str(word) for word in flags]
    assert run.info.command[0] == "capture"
    assert run.info.command[-len(words) :] == words
    assert {f"text.{key}" for key in ("overlap", "bos", "bos_added", "shuffle_seed")} <= set(run.info.signature)


def test_the_end_says_what_there_is_and_what_to_do_next(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "a run.zarr"
    arguments = ["--model", folder, "--store", store, "--text", text, "--sequences", 2, "--length", 16]
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr()
    rows = dict(line.split(maxsplit=1) for line in printed.out.splitlines())
    assert rows["tokens"] == "32 (2 sequences x 16)"
    assert rows["compressed"].startswith(human_bytes(store_bytes(store)))
    assert rows["next"] == f"analyze --store '{store}' --magnitude 2:7:1"
    assert "2 of 2 sequences committed" in printed.err
    assert "\r" not in printed.err
    assert capture(folder, tmp_path / "quiet.zarr", text, "--sequences", 2, "--length", 16) == 0
    assert capsys.readouterr().err == ""
