"""``--sequences 0:8``: workers fill one store at once, and it ends as the store of one process, file by file."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyze.cli import main as analyze
from capture.batching import batches
from capture.part import Part, parse_part, whole_command
from capture.plan import human_bytes
from schemas import Run
from schemas.errors import InputError
from tests.capture.captures import capture, contents
from tests.capture.forked_captures import Captures
from tests.capture.refused import refused

WORKERS, FEW_WORKERS = 8, 4
SEQUENCES = 16
BATCH_SIZE = 2
LENGTH = 8


@pytest.mark.parametrize(
    ("text", "held", "part"),
    [
        ("16", None, Part(0, 16, 16)),
        ("4", 16, Part(0, 4, 4)),  # the signature tells that the store is another
        ("0:8", None, Part(0, 8, 16)),
        ("0:8", 32, Part(0, 8, 32)),
        ("8:9/64", None, Part(8, 9, 64)),
        ("0:16", 16, Part(0, 16, 16)),
    ],
)
def test_forms_of_a_part(text: str, held: int | None, part: Part) -> None:
    assert parse_part(text, held) == part
    assert part.is_whole == (text in ("16", "4", "0:16"))


@pytest.mark.parametrize(
    ("text", "held", "message"),
    [
        ("0", None, "--sequences 0: must be at least 1"),
        ("0:0/0", None, "--sequences 0:0/0: must be at least 1"),
        ("eight", None, "--sequences eight: write a number, 16, or a part of it, 0:8 or 0:8/16"),
        ("0:", None, "--sequences 0:: write a number"),
        ("0:8/", None, "--sequences 0:8/: write a number"),
        ("8/16", None, "--sequences 8/16: write a number"),
        ("8:8", None, "--sequences 8:8: a part A:B goes from A up to, but not including, a larger B"),
        ("-1:4", None, "--sequences -1:4: a part A:B goes from A"),
        ("8:17", None, "--sequences 8:17: there are 16, so B is at most 16; for a store of more write 8:17/N"),
        ("8:33", 32, "--sequences 8:33: the store has 32, so B is at most 32; for a store of more write 8:33/N"),
    ],
)
def test_what_is_no_part(text: str, held: int | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_part(text, held)
    assert str(error.value).startswith(message)


@given(st.integers(1, 40), st.integers(1, 45), st.lists(st.integers(1, 39), max_size=6))
def test_parts_have_the_batches_of_the_whole(whole: int, batch_size: int, cuts: list[int]) -> None:
    batch_size = min(batch_size, whole)
    ends = sorted({0, whole, *(cut for cut in cuts if cut < whole)})
    parts = [Part(start, stop, whole) for start, stop in itertools.pairwise(ends)]
    together = [batch for part in parts for batch in batches(part.sequences, whole, batch_size)]
    refusals = []
    for part in parts:
        try:
            part.require_whole_batches(batch_size)
        except InputError as error:
            refusals.append(str(error))
    assert (refusals == []) == (together == batches(range(whole), whole, batch_size))


def test_a_part_that_cuts_a_batch_is_told_one_that_does_not() -> None:
    with pytest.raises(InputError) as error:
        Part(3, 7, 9).require_whole_batches(4)
    assert str(error.value) == (
        "--sequences 3:7 cuts a batch: batches of 4 begin at multiples of 4. Use --sequences 0:8, or another "
        "--batch-size for the whole store"
    )
    Part(4, 9, 9).require_whole_batches(4)  # the last batch is a short one


@pytest.mark.parametrize("words", [["--sequences", "0:8"], ["--sequences=0:8"], ["--sequences", "0:8/16"]])
def test_the_command_of_the_whole(words: list[str]) -> None:
    command = whole_command(["capture", "--model", "m", *words, "-q"], Part(0, 8, 16))
    assert " ".join(command).replace("=", " ") == "capture --model m --sequences 16 -q"


Take = Callable[..., int]


@pytest.fixture
def take(checkpoint: Callable[[str], Path], text: Path, tmp_path: Path) -> Take:
    """Function that captures so many sequences into a store of that name; the exit status."""

    def taken(sequences: str, store: str, *flags: object) -> int:
        options = ("--sequences", sequences, "--length", LENGTH, *flags)
        return capture(checkpoint("qwen3_moe"), tmp_path / store, text, *options)

    return taken


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["resident", "streamed"])
def test_parts_make_the_whole_in_any_order(engine: str, take: Take, tmp_path: Path) -> None:
    flags = ("--engine", engine, "--batch-size", 2)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    assert take("5", "one/run.zarr", *flags) == 0
    for part in ("4:5/5", "0:2", "2:4/5"):
        assert take(part, "other/run.zarr", *flags) == 0
    mine, theirs = (contents(tmp_path / folder / "run.zarr") for folder in ("one", "other"))
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name].replace(b"/other/", b"/one/")] == []


def dims_of(run: Run, name: str) -> tuple[str, ...]:
    return run.array(name).metadata.dimension_names or ()  # type: ignore[union-attr, return-value]


def test_a_part_says_what_it_did_and_what_is_left(
    take: Take, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "run.zarr"
    assert take("2:4/6", "run.zarr") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["part"] == "sequences 2:4 of 6"
    assert rows["tokens"] == f"{2 * LENGTH} of {6 * LENGTH} (2 of 6 sequences x {LENGTH})"
    assert rows["perplexity"].replace(".", "").isdigit()  # of those two: the others have no losses
    finish = Run(store).finishing_command()
    assert "--sequences 6" in finish
    assert rows["next"] == f"{finish} (all that is missing; or other parts of it)"
    assert Run(store).complete_sequences() == [2, 3]

    assert analyze(["--store", str(store)]) == 2
    said = capsys.readouterr().err
    assert "2 of 6 sequences are complete" in said
    assert "--sequences 6" in said
    assert analyze(["--store", str(store), "--partial"]) == 0
    assert "the 2 complete ones of 6 sequences (the store is partial)" in " ".join(capsys.readouterr().out.split())

    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
        (store / ".resume").mkdir()
        for first in range(6):  # what a streamed one leaves to go on from
            (store / ".resume" / f"{first}-{first + 1}.{first}-{first}.safetensors").write_bytes(bytes(5_000))
        assert take("1:3", "run.zarr", "--engine", "streamed") == 1
        shutil.rmtree(store / ".resume")
    held = 2 * 5_000
    for chunk in store.rglob("c.*"):
        place = dict(zip(dims_of(Run(store), chunk.parent.name), chunk.name.split(".")[1:], strict=True))
        held += chunk.stat().st_size * (place.get("sequence") in ("1", "2"))
    assert f"and {human_bytes(held)} is free" in capsys.readouterr().err  # what other parts hold is not

    assert take("0:6", "run.zarr") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "part" not in rows
    assert rows["tokens"] == f"{6 * LENGTH} (6 sequences x {LENGTH})"
    assert rows["next"].startswith("analyze")


def test_progress_is_of_the_part(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from capture.cli import main

    fixed = ["--model", checkpoint("qwen3"), "--store", tmp_path / "run.zarr", "--text", text, "--length", LENGTH]
    command = [*map(str, fixed), "--sequences", "1:3/4"]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert f"1:3 of 4 sequences x {LENGTH}" in said
    assert "2 of 2 sequences, 1:3 of 4, committed" in said
    assert main(command) == 0
    assert "sequences 1:3 of 4 in " in capsys.readouterr().err


def test_a_dry_run_prices_the_part(take: Take, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert take("0:2/6", "run.zarr", "--dry-run") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["tokens"] == f"6 sequences x {LENGTH} = {6 * LENGTH}"
    assert rows["part"] == f"0:2 of 6: {2 * LENGTH} tokens"
    assert rows["batches"] == "2 of 1"
    assert not (tmp_path / "run.zarr").exists()


def test_parts_of_another_whole_are_refused(
    checkpoint: Callable[[str], Path], text: Path, take: Take, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take("0:1/4", "run.zarr") == 0
    flags = ["--model", checkpoint("qwen3_moe"), "--store", tmp_path / "run.zarr", "--text", text, "--length", LENGTH]
    message = refused(capsys, *flags, "--sequences", "1:2/5")
    assert "  text.sequences: 4 in the store, 5 now" in message.splitlines()
    assert "--sequences 4" in message.splitlines()[-2]
    assert "the store has 4" in refused(capsys, *flags, "--sequences", "1:5")
    assert "cuts a batch" in refused(capsys, *flags, "--sequences", "1:3", "--batch-size", "2")


@pytest.fixture(scope="module")
def arguments(checkpoint: Callable[[str], Path], text: Path) -> Callable[..., list[str]]:
    """Function from an engine and sequences to the command's arguments."""

    def made(engine: str, sequences: object) -> list[str]:
        flags = ["--model", checkpoint("qwen3_moe"), "--store", "run.zarr", "--text", text, "--length", LENGTH, "-q"]
        flags += ["--batch-size", BATCH_SIZE, "--device", "cpu", "--engine", engine, "--sequences", sequences]
        return [str(flag) for flag in flags]

    return made


@pytest.fixture(scope="module")
def alone(
    captures: Captures, arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, bytes]]:
    """Engine -> the files of a store that one process made."""
    made = {}
    for engine in ("resident", "streamed"):
        folder = tmp_path_factory.mktemp(engine)
        answer = captures(arguments(engine, SEQUENCES), folder)
        assert answer["status"] == 0, answer["output"]
        made[engine] = contents(folder / "run.zarr")
    return made


def assert_same_files(folder: Path, files: dict[str, bytes]) -> None:
    assert [path.name for path in folder.iterdir()] == ["run.zarr"]
    found = contents(folder / "run.zarr")
    assert found.keys() == files.keys()
    assert [name for name in files if found[name] != files[name]] == []
    assert Run(folder / "run.zarr").committed().all()


def parts(arguments: Callable[..., list[str]], engine: str, workers: int = WORKERS) -> list[list[str]]:
    each = SEQUENCES // workers
    return [arguments(engine, f"{at}:{at + each}/{SEQUENCES}") for at in range(0, SEQUENCES, each)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["resident", "streamed"])
def test_eight_processes_at_once_make_the_store_of_one(
    engine: str,
    captures: Captures,
    arguments: Callable[..., list[str]],
    alone: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    answers = captures.together(parts(arguments, engine), tmp_path)
    assert [answer["status"] for answer in answers] == [0] * WORKERS, [answer["output"] for answer in answers]
    assert_same_files(tmp_path, alone[engine])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["resident", "streamed"])
@pytest.mark.parametrize("moment", ["run.zarr/ln_mlp/c.1.0.*", "run.zarr.new-*", "run.zarr/committed/c.0.0"])
def test_a_part_that_is_killed_is_repeated(
    engine: str,
    moment: str,
    captures: Captures,
    arguments: Callable[..., list[str]],
    alone: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    commands = parts(arguments, engine, FEW_WORKERS)
    answers = captures.together(commands, tmp_path, signal=signal.SIGKILL, after_new=moment)
    assert [answer["status"] for answer in answers[1:]] == [0] * (FEW_WORKERS - 1), [a["output"] for a in answers]
    if answers[0]["signalled"]:
        assert answers[0]["status"] == -signal.SIGKILL
    answer = captures(commands[0], tmp_path)
    assert answer["status"] == 0, answer["output"]
    assert_same_files(tmp_path, alone[engine])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["resident", "streamed"])
def test_processes_that_fill_the_same_sequences_do_no_harm(
    engine: str,
    captures: Captures,
    arguments: Callable[..., list[str]],
    alone: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    whole = arguments(engine, SEQUENCES)
    answers = captures.together([whole, whole, arguments(engine, "8:16")], tmp_path)
    assert [answer["status"] for answer in answers] == [0] * 3, [answer["output"] for answer in answers]
    assert_same_files(tmp_path, alone[engine])
