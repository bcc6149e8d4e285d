"""A checkpoint that passes through the disk: the same bits, few shards at a time, each fetched once, kills included."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from capture.download import Download
from capture.weights.passing_shards import _claim, remove_shards
from schemas import Run
from tests.capture.captures import contents
from tests.capture.forked_captures import Answer, Captures, capturing_processes
from tests.capture.small_disk import PAGE_BYTES, pages, small_disk
from tests.hub import Hub, sha256

MODEL, LAYERS, STORE = "tiny/Passing", 16, "run.zarr"
FLAGS = ["--text", "pydoc", "--sequences", 3, "--length", 32, "--batch-size", 2, "-q"]
SHARD_BYTES, UNUSED_BYTES = 30_000, 200_000
FEW = 5
"""Two with the embeddings and the head, two in which a layer may be, one ahead."""


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deep mixture of experts, in shards of about a layer and a half, with unfused experts.

    In each shard is a large tensor that the model does not have, so that shards are what fills a disk.
    """
    folder = tmp_path_factory.mktemp("passing") / "model"
    shutil.copytree(checkpoint("qwen3_moe"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(folder, num_hidden_layers=LAYERS)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size=SHARD_BYTES)
    for file in folder.glob("*.safetensors"):
        unused = {f"unused.{file.stem}": torch.zeros(UNUSED_BYTES, dtype=torch.uint8)}
        save_file(load_file(file) | unused, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> dict[str, int]:
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}
    assert 2 * FEW < len(sizes) < LAYERS
    return sizes


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[Hub]:
    with Hub() as hub:
        hub.add("model", MODEL, folder)
        yield hub
    assert hub.strays == []


@pytest.fixture
def captures(hub: Hub, server: Captures, whole: dict[str, bytes]) -> Captures:
    """Captures of a model that no cache holds."""
    hub.requests.clear()
    hub.ranges.clear()
    return server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(hub: Hub, home: Path) -> Iterator[Captures]:
    with capturing_processes(hub.environment(home)) as ask:
        yield ask


def evicting(captures: Captures, folder: Path, *more: object, **moment: object) -> Answer:
    arguments = ["--model", MODEL, "--store", STORE, "--evict", *FLAGS, *more]
    return captures([str(argument) for argument in arguments], folder, **moment)


def fetched(hub: Hub) -> Counter[str]:
    """How often each shard was sent whole."""
    sent = re.compile(rf"GET /{MODEL}/resolve/[0-9a-f]+/(.+\.safetensors)")
    got = Counter(match[1] for request in hub.requests if (match := sent.fullmatch(request)))
    return got - Counter(path for path, first in hub.ranges if first == 0)  # headers are asked for by range


@pytest.fixture
def most(hub: Hub, tmp_path: Path) -> Iterator[list[int]]:
    """Numbers of shards in the store at the moments when another one is asked for, that one included."""
    seen: list[int] = []

    def look(path: str) -> None:
        if path.endswith(".safetensors"):
            seen.append(1 + len(list(tmp_path.glob(f"{STORE}/.shards/*/*.safetensors"))))

    hub.watch = look
    yield seen
    hub.watch = lambda path: None


@pytest.fixture(scope="module")
def whole(server: Captures, home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a streamed capture of the model from a cache that holds all of it, and is then emptied."""
    root = tmp_path_factory.mktemp("whole")
    arguments = ["--model", MODEL, "--store", STORE, "--engine", "streamed", *FLAGS]
    answer = server([str(argument) for argument in arguments], root)
    assert answer["status"] == 0, answer["output"]
    shutil.rmtree(home / "hub")
    return contents(root / STORE)


def assert_same(store: Path, whole: dict[str, bytes]) -> None:
    """Every file of the store as in a capture without --evict, but for the command in its attributes."""
    held = contents(store)
    assert held.keys() == whole.keys()
    assert [name for name in held if held[name] != whole[name]] == ["zarr.json"]
    assert Run(store).info.signature["model.weights"] in whole["zarr.json"].decode()


@pytest.mark.parametrize("engine", ["auto", "lockstep"])
def test_few_shards_at_a_time_and_each_once(
    engine: str,
    captures: Captures,
    hub: Hub,
    shards: dict[str, int],
    most: list[int],
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    answer = evicting(captures, tmp_path, "--engine", engine)
    assert answer["status"] == 0, answer["output"]
    assert fetched(hub) == Counter(dict.fromkeys(shards, 1))
    assert max(most) <= FEW
    assert_same(tmp_path / STORE, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "then"), [(0, "--evict"), (6, "--evict"), (LAYERS - 1, "--evict"), (6, "--engine=streamed")]
)
def test_a_kill_costs_the_shards_that_are_still_to_be_read(
    layer: int,
    then: str,
    captures: Captures,
    hub: Hub,
    home: Path,
    folder: Path,
    most: list[int],
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """And none of them twice that had come whole. Without --evict the same store goes on from the whole checkpoint."""
    at = f"{STORE}/ln_attn/c.{layer}.0.*"
    answer = evicting(captures, tmp_path, signal=signal.SIGKILL, after_new=at)
    assert answer["status"] == -signal.SIGKILL, answer["output"]
    left = {file.name for file in tmp_path.glob(f"{STORE}/.shards/*/*.safetensors")}
    assert len(left) <= FEW
    done = int(Run(tmp_path / STORE).committed().all(axis=1).sum())
    hub.requests.clear()
    hub.ranges.clear()
    if then == "--evict":
        answer = evicting(captures, tmp_path)
    else:
        arguments = ["--model", MODEL, "--store", STORE, then, *FLAGS]
        answer = captures([str(argument) for argument in arguments], tmp_path)
    assert answer["status"] == 0, answer["output"]
    assert_same(tmp_path / STORE, whole)
    if then == "--evict":
        needed = read_from(folder, done)
        got = fetched(hub)
        assert set(got) <= needed - left
        assert set(got.values()) <= {1}
        assert max([*most, 0]) <= FEW
    else:
        shutil.rmtree(home / "hub")  # for the tests that follow


def read_from(folder: Path, layer: int) -> set[str]:
    """The shards that hold a tensor of a layer from ``layer`` on, or of none."""
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    numbers = {name: re.match(r"model\.layers\.(\d+)\.", name) for name in weight_map}
    return {weight_map[name] for name, match in numbers.items() if match is None or int(match[1]) >= layer}


@pytest.mark.slow
def test_what_the_cache_holds_is_read_there_and_stays(
    captures: Captures, hub: Hub, shards: dict[str, int], whole: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    arguments = ["--model", MODEL, "--store", "filler.zarr", *FLAGS]
    assert captures([str(argument) for argument in arguments], tmp_path)["status"] == 0
    for name in sorted(shards)[::2]:
        link = next((home / "hub").rglob(f"snapshots/*/{name}"))
        link.resolve().unlink()
        link.unlink()
    held = {path: path.stat().st_mtime_ns for path in (home / "hub").rglob("*") if path.is_file()}
    hub.requests.clear()
    hub.ranges.clear()
    answer = evicting(captures, tmp_path)
    assert answer["status"] == 0, answer["output"]
    assert set(fetched(hub)) == set(sorted(shards)[::2])
    assert_same(tmp_path / STORE, whole)
    assert {path: path.stat().st_mtime_ns for path in (home / "hub").rglob("*") if path.is_file()} == held
    shutil.rmtree(home / "hub")


def test_a_hub_that_goes_away_costs_a_layer(
    captures: Captures, hub: Hub, shards: dict[str, int], whole: dict[str, bytes], tmp_path: Path
) -> None:
    gone = sorted(shards)[6]
    hub.shut.add(gone)
    try:
        answer = evicting(captures, tmp_path)
    finally:
        hub.shut.clear()
    assert answer["status"] == 2  # its header cannot be had either, which shows before anything is written
    assert not (tmp_path / STORE).exists()
    hub.watch = lambda path: hub.shut.add(gone) if path == sorted(shards)[4] else None
    try:
        answer = evicting(captures, tmp_path)
    finally:
        hub.shut.clear()
        hub.watch = lambda path: None
    assert answer["status"] == 1, answer["output"]
    assert f"{gone}: {MODEL} cannot be fetched from the Hub (HfHubHTTPError: 403 Forbidden" in answer["output"]
    assert "What is committed is safe; the same command goes on" in answer["output"]
    assert Run(tmp_path / STORE).committed().any()
    assert evicting(captures, tmp_path)["status"] == 0
    assert_same(tmp_path / STORE, whole)


@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_a_shard(
    captures: Captures, hub: Hub, shards: dict[str, int], whole: dict[str, bytes], folder: Path, tmp_path: Path
) -> None:
    slow, enough = sorted(shards)[6], threading.Event()
    hub.watch = lambda path: enough.wait(30) if path == slow else None
    try:
        draft = f"{STORE}/.shards/*/.cache/huggingface/download/*{sha256(folder / slow)}*.incomplete"
        answer = evicting(captures, tmp_path, signal=signal.SIGINT, after_new=draft)
    finally:
        enough.set()
        hub.watch = lambda path: None
    assert answer["status"] == 130, answer["output"]
    assert answer["seconds"] < 15
    assert answer["output"] == "capture: interrupted; what is committed is safe, the same command continues\n"
    assert evicting(captures, tmp_path)["status"] == 0
    assert_same(tmp_path / STORE, whole)


@pytest.mark.slow
def test_a_disk_with_room_for_few_shards(
    hub: Hub, shards: dict[str, int], whole: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    """Beside the store; with less it is refused, where others fill it meanwhile it is full, and then it goes on."""
    for name, data in whole.items():
        (tmp_path / "whole" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "whole" / name).write_bytes(data)
    shard = max(shards.values()) + PAGE_BYTES
    room = pages((tmp_path / "whole").rglob("*")) + (FEW + 1) * shard
    assert room < sum(shards.values())
    arguments = ["--model", MODEL, "--store", STORE, "--evict", *FLAGS]
    words = [str(argument) for argument in arguments]
    with small_disk(tmp_path / "disk", hub.environment(home)) as disk:
        if disk.mounted:
            disk.resize(str((FEW + 1) * shard))
            answer = disk.capture(words)
            assert answer["status"] == 1, answer["output"]
            assert re.fullmatch(
                r"capture: error: the shards that pass by take about [^\n]* and the store [^\n]* of disk, and [^\n]* "
                r"is free in run\.zarr: give a --store on a larger disk\n",
                answer["output"],
            ), answer["output"]
            disk.resize(str(room))
            shard_there = f"ls {disk.folder}/{STORE}/.shards/*/*.safetensors"
            others = f"until {shard_there}; do sleep 0.01; done; head -c {room} /dev/zero > {disk.folder}/others"
            disk.captures(run=["sh", "-c", f"({others}) >/dev/null 2>&1 &"])
        answer = disk.capture(words, **({} if disk.mounted else {"file_bytes": UNUSED_BYTES}))
        assert answer["status"] == 1, answer["output"]
        # A shard finds it full, or a slice of the store does, whichever is written then.
        full = rf"the disk is full: {STORE}(/\.shards)?\. What is committed is safe; [^\n]*the same command"
        assert not disk.mounted or re.match(f"capture: error: {full}[^\n]*\n$", answer["output"]), answer["output"]
        disk.captures(run=["rm", "-f", f"{disk.folder}/others"])
        answer = disk.capture(words)
        assert answer["status"] == 0, answer["output"]
        (tmp_path / "finished").mkdir()
        assert_same(disk.copy_out(tmp_path / "finished") / STORE, whole)


@pytest.mark.slow
def test_workers_that_fill_parts_of_a_store_let_shards_pass_on_their_own(
    captures: Captures, hub: Hub, shards: dict[str, int], whole: dict[str, bytes], tmp_path: Path
) -> None:
    words = [*map(str, ["--model", MODEL, "--store", STORE, "--evict", *FLAGS])]
    answers = captures.together([[*words, "--sequences=0:2/3"], [*words, "--sequences=2:3/3"]], tmp_path)
    assert [answer["status"] for answer in answers] == [0, 0], answers
    assert fetched(hub) == Counter(dict.fromkeys(shards, 2))
    assert_same(tmp_path / STORE, whole)


def test_two_processes_have_shards_of_their_own(tmp_path: Path) -> None:
    first, second = _claim(tmp_path / ".shards"), _claim(tmp_path / ".shards")
    assert first[0] != second[0]
    os.close(first[1])
    (second[0] / "model.safetensors").touch()
    remove_shards(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == [".shards", "1", "model.safetensors"]
    os.close(second[1])
    remove_shards(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_disk_that_passing_shards_take_is_foreseen(
    captures: Captures, hub: Hub, shards: dict[str, int], tmp_path: Path
) -> None:
    answer = evicting(captures, tmp_path, "--dry-run")
    assert answer["status"] == 0, answer["output"]
    row = next(line for line in answer["output"].splitlines() if line.startswith("download"))
    told = re.fullmatch(r"download +([\d.]+) MB, about ([\d.]+) MB of it at once, into run.zarr \(.* free\)", row)
    assert told, row
    assert float(told[1]) == pytest.approx(sum(shards.values()) / 10**6, rel=0.01)
    largest = sorted(shards.values())[-FEW:]
    assert float(told[2]) == pytest.approx(sum(largest) / 10**6, rel=0.01)
    assert "streamed: --evict keeps few shards at a time" in answer["output"]
    assert not [request for request in hub.requests if request.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "resident"], "--engine resident: --evict goes with those that read one layer at a time"),
        (["--model", "."], "--evict: --model . is a local checkpoint, of which nothing is removed"),
    ],
)
def test_where_nothing_can_be_evicted(
    arguments: list[str], said: str, captures: Captures, folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    answer = evicting(captures, tmp_path, *arguments)
    assert answer["status"] == 2
    assert answer["output"].startswith(f"capture: error: {said}")
    assert not (tmp_path / STORE).exists()


@pytest.mark.parametrize("beside", [False, True])
def test_a_download_that_does_not_fit_suggests_to_evict(beside: bool) -> None:
    download = Download(61 * 10**9, 61 * 10**9, Path("cache"), False, 64 * 10**9, beside)
    assert download.shortfall(2 * 10**9) is None
    said = download.shortfall(4 * 10**9)
    assert (said is not None) == beside
    if said is not None:
        assert said.startswith("the weights to be downloaded take about 61 GB and the store 4 GB of disk, and 64 GB is")
        assert "use --evict, which keeps few of them at a time" in said
    said = Download(61 * 10**9, 20 * 10**9, Path("run.zarr"), True, 10**9, True).shortfall(0)
    assert said is not None
    assert "--evict" not in said
    assert Download(0, 0, Path("cache"), False, 0, True).shortfall(10**9) is None
