"""What of the device code a CPU can show: copies, memory summed, and a model that accelerate has taken apart."""

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
from capture.host_buffers import HostBuffers
from capture.part import Part
from capture.plan import make_plan
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
