"""What only a real accelerator can show: streams, events, pinned copies, its memory. Skipped where there is none.

Bits are compared between captures on the same device: another device sums in another order.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoConfig, AutoModelForCausalLM

import capture.device as devices
from bench.geometry import write_sparse_checkpoint
from bench.predictions import FAMILIES, MEMORY_WITHIN
from capture.device import available_memory_bytes, choose_device, copied_to_host, device_name, devices_of, host_memory
from capture.preparation import CaptureSettings, prepare
from schemas.run import Run
from tests.capture.captures import POSITIONS, SEQUENCES, capture, contents
from tests.capture.test_engines import COUPLED
from tests.capture.test_peaks import assert_peaks
from tests.checkpoints import ARCHITECTURES, VOCABULARY_SIZE, write_checkpoint, write_tokenizer

pytestmark = pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here")

ON = ("--device", "auto")
BATCH_SIZE = 2
REPEATS = 20
SLEEP_CYCLES = 3_000_000
"""About 2 ms: longer than a layer of the models here computes."""

LARGER: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "vocab_size": VOCABULARY_SIZE,
}
EXPERTS: dict[str, Any] = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}


def digest(store: Path) -> dict[str, str]:
    """SHA-256 of every array, as bits."""
    run = Run(store)
    assert run.committed().all()
    return {name: hashlib.sha256(run.read(name).tobytes()).hexdigest() for name in sorted(run.group.array_keys())}


def larger(folder: Path, model_type: str, **changed: Any) -> Path:
    """A random checkpoint whose layers take long enough for copies to be late."""
    config = AutoConfig.for_model(model_type, **{**LARGER, **changed})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, VOCABULARY_SIZE)
    return folder


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = np.random.default_rng(0).integers(97, 123, (4000, 6), np.uint8)
    file = tmp_path_factory.mktemp("long") / "text.txt"
    file.write_text(" ".join(bytes(word).decode() for word in words))
    return file


@pytest.fixture(scope="module")
def on_device(
    checkpoint: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Run]:
    """Function from an architecture to its resident run on the accelerator."""
    made: dict[str, Run] = {}

    def run(name: str) -> Run:
        if name not in made:
            store = tmp_path_factory.mktemp("device") / f"{name}.zarr"
            flags = ("--sequences", SEQUENCES, "--length", POSITIONS, "--batch-size", BATCH_SIZE)
            assert capture(checkpoint(name), store, text, *ON, "--engine", "resident", *flags) == 0
            made[name] = Run(store)
        return made[name]

    return run


def test_auto_takes_it_and_says_so(on_device: Callable[[str], Run]) -> None:
    device = choose_device("auto")
    assert device.type != "cpu"
    software = on_device("llama").info.software
    assert software.device == device.type
    assert software.device_name == device_name(device)
    assert len(devices_of(device)) == torch.accelerator.device_count()
    free = available_memory_bytes(device)
    assert free is None or 10**8 < free < 10**13


def test_a_copy_to_the_host_is_of_the_moment() -> None:
    """Changed at once where it lies, and the pinned buffer is used again: what was copied stays what it was."""
    device = devices_of(choose_device("auto"))[0]
    values = torch.zeros(64, 1024, 1024, dtype=torch.int16, device=device)
    target = host_memory(tuple(values.shape), values.dtype, device)
    assert target.is_pinned() == (device.type in devices.STREAMING)
    for step in range(20):
        values.fill_(step)
        arrived = copied_to_host(target, values)
        values.fill_(-1)
        arrived()
        assert bool((target == step).all())


@pytest.mark.parametrize("engine", ["streamed", "lockstep"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_bits_as_resident(
    name: str,
    engine: str,
    checkpoint: Callable[[str], Path],
    on_device: Callable[[str], Run],
    text: Path,
    tmp_path: Path,
) -> None:
    if engine == "streamed" and name in COUPLED:
        pytest.skip("its layers are coupled; refused, as on a CPU")
    flags = ("--sequences", SEQUENCES, "--length", POSITIONS, "--batch-size", BATCH_SIZE, "--engine", engine)
    assert capture(checkpoint(name), tmp_path / "run.zarr", text, *ON, *flags) == 0
    run, resident = digest(tmp_path / "run.zarr"), digest(Path(on_device(name).path))
    assert [array for array in resident if run[array] != resident[array]] == []
    assert run.keys() == resident.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_peaks_are_those_of_the_slices(name: str, on_device: Callable[[str], Run]) -> None:
    assert_peaks(on_device(name))


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma3"])
def test_a_cpu_computes_nearly_the_same(name: str, text: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / name, name, dtype="float32")
    for store, device in (("one", "cpu"), ("other", "auto")):
        flags = ("--device", device, "--sequences", SEQUENCES, "--length", POSITIONS)
        assert capture(folder, tmp_path / f"{store}.zarr", text, *flags) == 0
    one, other = Run(tmp_path / "one.zarr"), Run(tmp_path / "other.zarr")
    np.testing.assert_array_equal(one.read("token_id"), other.read("token_id"))
    for array in ("token_nll", "ln_mlp"):
        np.testing.assert_allclose(one.read(array), other.read(array), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", ["resident", "streamed"])
@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe"])
def test_copies_do_not_race(
    model_type: str, engine: str, long_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured again and again, and with every copy on a stream of its own made late: the same bits each time."""
    folder = larger(tmp_path / "model", model_type, **(EXPERTS if model_type == "qwen3_moe" else {}))
    flags = ("--sequences", 4, "--length", 512, "--batch-size", 2, "--engine", engine)
    wanted: dict[str, str] = {}
    for repeat in range(REPEATS):
        if repeat == REPEATS // 2 and torch.cuda.is_available():
            _delay_streams(monkeypatch)
        store = tmp_path / f"{repeat}.zarr"
        assert capture(folder, store, long_text, *ON, *flags) == 0
        found = digest(store)
        wanted = wanted or found
        assert [name for name in wanted if found[name] != wanted[name]] == [], f"repeat {repeat}"


def _delay_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is asked of a stream of its own begin only after the device has slept there."""

    class LateStream(torch.Stream):  # type: ignore[misc]
        def __enter__(self) -> Any:
            entered = super().__enter__()
            torch.cuda._sleep(SLEEP_CYCLES)
            return entered

    monkeypatch.setattr(torch, "Stream", LateStream)


def test_killed_and_finished(checkpoint: Callable[[str], Path], text: Path, tmp_path: Path) -> None:
    """SIGKILL after some commits of a streamed capture, in processes of their own: the bits of one left alone."""
    flags = ["--sequences", "5", "--length", "8", "--batch-size", "2", "--engine", "streamed", *ON, "-q"]
    words = ["--model", str(checkpoint("olmoe")), "--text", str(text), "--store", "run.zarr", *flags]
    command = [sys.executable, "-m", "capture.cli", *words]
    root, whole = str(Path(__file__).parents[2]), tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    whole.mkdir()
    subprocess.run(command, cwd=whole, env=environment, check=True, stdout=subprocess.DEVNULL)
    choose, kills = random.Random(0), 0
    killed = tmp_path / "killed"
    killed.mkdir()
    for commits in (1, 4, 7):
        process = subprocess.Popen(command, cwd=killed, env=environment, stdout=subprocess.DEVNULL)
        there = len(list(killed.glob("run.zarr/committed/c.*")))
        while process.poll() is None and len(list(killed.glob("run.zarr/committed/c.*"))) < there + commits:
            time.sleep(0.0005)
        time.sleep(choose.uniform(0, 0.002))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills > 0
    subprocess.run(command, cwd=killed, env=environment, check=True, stdout=subprocess.DEVNULL)
    finished, undisturbed = contents(killed / "run.zarr"), contents(whole / "run.zarr")
    assert finished.keys() == undisturbed.keys()
    assert [name for name in finished if finished[name] != undisturbed[name]] == []


@pytest.mark.parametrize("name", ["llama", "gemma3n", "qwen3_moe"])
@pytest.mark.parametrize("rest", ["same device", "cpu"])
def test_a_model_in_the_hands_of_accelerate(
    name: str,
    rest: str,
    checkpoint: Callable[[str], Path],
    on_device: Callable[[str], Run],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every layer a piece of its own, on one accelerator; or the upper half on the CPU: two devices, where there is one
    accelerator."""
    from capture import session

    load_model, device = session.load_model, devices_of(choose_device("auto"))[0]
    if rest == "cpu" and name == "gemma3n":
        pytest.skip("its layers share keys and values, which accelerate does not move between devices")

    def dispatched(*arguments: Any) -> Any:
        model = load_model(*arguments)
        where = device.index if rest == "same device" else "cpu"
        places: dict[str, Any] = {path: device.index for path, _ in model.model.named_children() if path != "layers"}
        places = {f"model.{path}": index for path, index in places.items()} | {"model.norm": where, "lm_head": where}
        layers = len(model.model.layers)
        places |= {f"model.layers.{i}": device.index if i < layers // 2 else where for i in range(layers)}
        if rest == "cpu":
            model.to("cpu")
            return dispatch_model(model, places, main_device="cpu")
        return dispatch_model(model, places, force_hooks=True)

    monkeypatch.setattr(session, "load_model", dispatched)
    flags = ("--sequences", SEQUENCES, "--length", POSITIONS, "--engine", "resident", "--batch-size", BATCH_SIZE)
    assert capture(checkpoint(name), tmp_path / "run.zarr", text, *ON, *flags) == 0
    run, whole = Run(tmp_path / "run.zarr"), on_device(name)
    assert_peaks(run)
    if rest == "same device":
        assert digest(tmp_path / "run.zarr") == digest(Path(whole.path))
        return
    half = run.dimensions.layers // 2
    for site in run.info.stored_sites:
        assert run.read(site)[:half].tobytes() == whole.read(site)[:half].tobytes()


@pytest.mark.skipif(not hasattr(torch.accelerator, "max_memory_allocated"), reason="this torch does not tell the peak")
@pytest.mark.parametrize(
    ("family", "engine", "sequences", "length", "batch_size"),
    [
        ("dense", "resident", 4, 1024, 4),
        ("dense", "streamed", 4, 1024, 2),
        ("experts", "resident", 2, 512, 1),
        ("experts", "lockstep", 4, 512, 1),
        ("MXFP4", "resident", 2, 512, 1),
        ("MXFP4", "streamed", 2, 1024, 1),
        ("linear attention", "streamed", 2, 1024, 1),
        ("sandwich norms", "resident", 2, 1024, 1),
    ],
)
def test_its_memory_is_as_predicted(
    family: str, engine: str, sequences: int, length: int, batch_size: int, long_text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    write_sparse_checkpoint(folder, *FAMILIES[family])
    write_tokenizer(folder, VOCABULARY_SIZE)
    shape: dict[str, Any] = {"sequences": str(sequences), "length": length, "batch_size": batch_size, "engine": engine}
    store = tmp_path / "run.zarr"
    plan = prepare(CaptureSettings(str(folder), (), store=str(store), text=str(long_text), **shape)).plan
    gc.collect()
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    flags = [word for name, value in shape.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert capture(folder, store, long_text, *ON, *flags) == 0
    assert plan.memory.total == pytest.approx(torch.accelerator.max_memory_allocated(), rel=MEMORY_WITHIN)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only there can a process be given less")
@pytest.mark.parametrize("engine", ["resident", "streamed"])
def test_a_full_device_is_an_error_that_says_so(
    engine: str, long_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = larger(tmp_path / "model", "llama", intermediate_size=16384)
    flags = ("--sequences", 4, "--length", 512, "--batch-size", 4, "--engine", engine)
    gc.collect()
    torch.cuda.empty_cache()
    whole = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 90 * 2**20) / whole)
    try:
        assert capture(folder, tmp_path / "run.zarr", long_text, *ON, *flags) == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    error = capsys.readouterr().err
    assert "memory of cuda" in error
    assert "Traceback" not in error
    assert capture(folder, tmp_path / "run.zarr", long_text, *ON, *flags) == 0
    assert Run(tmp_path / "run.zarr").committed().all()
