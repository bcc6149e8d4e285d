"""What of the device code a CPU can show: copies, memory, and a model that accelerate has taken apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model

from capture import device as devices
from capture.device import available_memory_bytes, copied_to_host, devices_of, host_memory, staging_buffer
from capture.engines.resident import placement
from capture.estimates import BASE_BYTES
from capture.host_buffers import HostBuffers
from capture.part import Part
from capture.plan import describe_plan, human_bytes, make_plan
from capture.sites import Site
from schemas import ENCODINGS, Run
from tests.capture.captures import POSITIONS, SEQUENCES, capture
from tests.capture.made_up import FACTS

CPU = torch.device("cpu")
GPUS = [torch.device("cuda", index) for index in range(3)]  # names: nothing is put there


def test_a_copy_keeps_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(12.0).view(3, 4).t()
    buffers = HostBuffers()
    copy = buffers.copy(values)
    values.zero_()
    copy.arrived()
    assert copy.tensor.is_contiguous()
    assert copy.tensor.tolist() == torch.arange(12.0).view(3, 4).t().tolist()
    buffers.give_back(copy.tensor)
    again = buffers.copy(values)
    assert again.tensor.data_ptr() == copy.tensor.data_ptr()
    assert again.tensor.sum() == 0


def test_a_cpu_needs_no_way_there() -> None:
    assert staging_buffer(8, CPU) is None
    assert not host_memory((2, 3), torch.int16, CPU).is_pinned()
    target = host_memory((3,), torch.int16, CPU)
    copied_to_host(target, torch.tensor([1, 2, 3], dtype=torch.int16))()
    assert target.tolist() == [1, 2, 3]
    assert devices_of(CPU) == [CPU]


def test_memory_is_summed_over_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {0: 5, 1: 7, 2: None}
    monkeypatch.setattr(devices, "_available_bytes", lambda device: free[device.index])
    assert available_memory_bytes(*GPUS[:2]) == 12
    assert available_memory_bytes(GPUS[1]) == 7
    assert available_memory_bytes(*GPUS) is None
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    assert devices_of(torch.device("cuda")) == GPUS
    assert devices_of(GPUS[1]) == GPUS[1:2]  # who names one gets one


def test_a_model_is_spread_where_one_device_is_too_small() -> None:
    facts = replace(FACTS, parameter_bytes=60 * 10**9)
    sites = (Site("ln_attn", ("a", "b")),)
    plan = make_plan(facts, sites, ENCODINGS["bfloat16"], part=Part(0, 1, 1), length=8, batch_size=1)
    free = 40 * 10**9
    assert placement(plan, {CPU: 1}) == {}
    assert placement(plan, {GPUS[0]: plan.memory.total, GPUS[1]: free}) == {}
    spread = placement(plan, {GPUS[0]: plan.memory.total - 1, GPUS[1]: free, GPUS[2]: 1})
    assert spread["device_map"] == "auto"
    assert spread["max_memory"] == {0: plan.memory.total - 1 - plan.memory.work, 1: free - plan.memory.work, 2: 0}


def test_buffers_of_two_shapes_are_both_used_again() -> None:
    buffers, one, other = HostBuffers(), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int16)
    places = []
    for _ in range(2):
        copies = [buffers.copy(one), buffers.copy(other)]
        places.append([copy.tensor.data_ptr() for copy in copies])
        for copy in copies:
            buffers.give_back(copy.tensor)
    assert places[0] == places[1]


def test_memory_of_an_accelerator_is_told_apart_from_its_hosts() -> None:
    """Libraries, a layer that is read and slices that wait are in the host's; two layers and a batch's work are not."""
    facts = replace(FACTS, parameter_bytes=60 * 10**9, largest_layer_bytes=1_200_000_000, outside_layers_bytes=10**9)
    sites = (Site("ln_attn", ("model.layers.0.mixer", "model.layers.1.mixer")),)
    shape: dict[str, Any] = {"part": Part(0, 1, 1), "length": 64, "batch_size": 1}
    host, device = (make_plan(facts, sites, ENCODINGS["bfloat16"], **shape, accelerated=on) for on in (False, True))
    assert host.memory.host == 0
    assert device.memory.weights == host.memory.weights == facts.parameter_bytes
    assert device.memory.work < BASE_BYTES < host.memory.work
    streamed = replace(device, engine="streamed")
    assert streamed.memory.weights == 3_400_000_000
    assert 2**31 < streamed.memory.host - device.memory.host + 2**20 < 2**31 + 2**21  # pinned memory: a power of two
    assert host.memory.needed == host.memory.total
    assert device.memory.needed > device.memory.total + 2**28  # no allocator fills a device to its end
    loading = replace(device, facts=replace(facts, converted_bytes=10**9))
    assert loading.memory.work == pytest.approx(0.67 * facts.largest_layer_bytes)
    told = describe_plan(streamed, model="m", store="s", device="cuda:0", available_bytes=10**11, disk_free_bytes=1)
    (row,) = [line for line in told.splitlines() if line.startswith("memory")]
    assert "on cuda:0 (100 GB available)" in row
    assert f"; the host about {human_bytes(streamed.memory.host)}" in row


@pytest.mark.parametrize(
    ("engine", "advice"),
    [
        ("resident", "run the same command with --engine streamed or lockstep, or free memory there"),
        ("streamed", "is safe; free memory there and run the same command"),
    ],
)
def test_a_device_that_is_full_is_named_and_the_store_is_finished_later(
    engine: str,
    advice: str,
    checkpoint: Callable[[str], Path],
    captured: Callable[..., Run],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the middle of the second forward; torch raises this error for accelerators alone."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward, calls = LlamaMLP.forward, 0

    def fail(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, *args)

    monkeypatch.setattr(LlamaMLP, "forward", fail)
    flags = ("--sequences", SEQUENCES, "--length", POSITIONS, "--engine", engine)
    assert capture(checkpoint("llama"), tmp_path / "run.zarr", text, *flags) == 1
    error = capsys.readouterr().err
    assert "the memory of cpu is full: about " in error
    assert advice in error
    monkeypatch.undo()
    assert capture(checkpoint("llama"), tmp_path / "run.zarr", text, *flags) == 0
    run, whole = Run(tmp_path / "run.zarr"), captured("llama")
    for array in whole.group.array_keys():
        assert run.read(array).tobytes() == whole.read(array).tobytes(), array


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma3n", "qwen3_moe"])
def test_a_model_in_the_hands_of_accelerate_gives_the_same_bits(
    name: str,
    checkpoint: Callable[[str], Path],
    captured: Callable[..., Run],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every layer is a piece of its own, with accelerate's hooks around it, decoder and head too: all on the CPU."""
    from capture import session

    load_model = session.load_model
    hooked: dict[str, Any] = {}

    def dispatched(*arguments: Any) -> Any:
        model = load_model(*arguments)
        layers = {f"model.layers.{index}": "cpu" for index in range(len(model.model.layers))}
        model = dispatch_model(model, {"model": "cpu", **layers, "lm_head": "cpu"}, force_hooks=True)
        hooked.update((path, module) for path, module in model.named_modules() if "forward" in vars(module))
        return model

    monkeypatch.setattr(session, "load_model", dispatched)
    flags = ("--sequences", SEQUENCES, "--length", POSITIONS, "--engine", "resident")
    assert capture(checkpoint(name), tmp_path / "run.zarr", text, *flags) == 0
    assert {"model", "model.layers.1", "lm_head"} <= hooked.keys()
    assert all("forward" in vars(module) for module in hooked.values())  # the hooks outlast every block of the loss
    run, whole = Run(tmp_path / "run.zarr"), captured(name)
    for array in whole.group.array_keys():
        np.testing.assert_array_equal(run.read(array), whole.read(array), err_msg=array)
