"""A plan is what would happen: bytes of each array, and what won't fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.coupling import APART, Coupling
from capture.estimates import ARRAY_METADATA_BYTES, CHUNK_OVERHEAD_BYTES, LOSS_BLOCK_BYTES
from capture.model_facts import ModelFacts
from capture.part import Part
from capture.plan import (
    CapturePlan,
    choose_engine,
    describe_plan,
    human_bytes,
    human_count,
    make_plan,
    shortfalls,
)
from capture.sites import Site
from schemas import ENCODINGS
from schemas.errors import InputError
from schemas.layout import MAX_CHUNK_BYTES, Dimensions, plan_arrays
from tests.capture.made_up import FACTS

ATTN = Site("ln_attn", ("layers.0.attn", "layers.1.linear"))
MLP = Site("ln_mlp", ("layers.0.mlp", "layers.1.mlp"))
ALIAS = replace(MLP, alias="ln_attn")


def plan_of(
    facts: ModelFacts = FACTS,
    sites: tuple[Site, ...] = (ATTN, MLP),
    bits: str = "bfloat16",
    sequences: int = 3,
    length: int = 16,
    batch_size: int = 1,
    coupling: Coupling = APART,
    part: Part | None = None,
) -> CapturePlan:
    part = part or Part(0, sequences, sequences)
    sizes = {"length": length, "batch_size": batch_size}
    return make_plan(facts, sites, ENCODINGS[bits], part=part, **sizes, coupling=coupling)


def test_what_a_streamed_run_keeps_beside_its_store_counts_for_the_disk() -> None:
    """Five batches of hidden states and two sites' position peaks, and what replaces them before they are gone."""
    plan = replace(plan_of(sequences=5, length=16), engine="streamed")
    each = 16 * FACTS.hidden_size * 2 * 3
    assert plan.resume_bytes == 10 * each
    assert plan.disk_bytes == plan.certain_bytes + 10 * each
    assert shortfalls(plan, None, plan.disk_bytes) == []
    assert "of disk" in shortfalls(plan, None, plan.disk_bytes - 1)[0]
    assert replace(plan, engine="resident").resume_bytes == 0
    many = replace(plan_of(sequences=20, length=16), engine="streamed")
    assert many.resume_bytes == 36 * each


@given(
    bits=st.sampled_from(list(ENCODINGS)),
    layers=st.integers(1, 5),
    features=st.integers(1, 40),
    sequences=st.integers(1, 6),
    length=st.integers(1, 64),
    sites=st.sampled_from([(ATTN,), (MLP,), (ATTN, MLP), (ATTN, ALIAS)]),
    batch_size=st.integers(1, 6),
    vocabulary=st.integers(2, 2**22),
)
def test_bytes_and_chunks_are_those_of_the_arrays(
    bits: str,
    layers: int,
    features: int,
    sequences: int,
    length: int,
    sites: tuple[Site, ...],
    batch_size: int,
    vocabulary: int,
) -> None:
    facts = replace(FACTS, layers=layers, hidden_size=features, vocabulary_size=vocabulary)
    plan = plan_of(facts, sites, bits, sequences, length, batch_size)
    batch_size = min(batch_size, sequences)  # a batch larger than the run is the whole run
    assert plan.batch_size == batch_size
    stored = [site.name for site in sites if site.alias is None]
    assert plan.stored_sites == stored
    assert plan.dimensions == Dimensions(layers, sequences, length, features)
    assert repr(plan.arrays) == repr(plan_arrays(plan.dimensions, stored, ENCODINGS[bits]))  # fills are NaN
    raw, slices = 0, 0
    for array in plan.arrays:
        raw += int(np.prod(array.shape)) * array.dtype.itemsize
        slices += array.chunk_count if array.name in stored else 0
        assert int(np.prod(array.chunks)) * array.dtype.itemsize <= MAX_CHUNK_BYTES
    assert plan.raw_bytes == raw
    assert slices == len(stored) * layers * sequences  # one slice, one file
    beside = sum(ARRAY_METADATA_BYTES + array.chunk_count * CHUNK_OVERHEAD_BYTES for array in plan.arrays)
    full = sum(array.chunk_count * int(np.prod(array.chunks)) * array.dtype.itemsize for array in plan.arrays)
    assert 0.3 * raw + beside < plan.expected_bytes < full + beside + 10_000
    block = plan.loss_block_positions
    assert 1 <= block <= length
    block_bytes = batch_size * vocabulary * 4
    assert block == 1 or block * block_bytes <= LOSS_BLOCK_BYTES
    assert block == length or (block + 1) * block_bytes > LOSS_BLOCK_BYTES
    assert plan.memory.total > facts.parameter_bytes


def test_memory_grows_with_the_batch_and_with_eager_attention() -> None:
    facts = replace(FACTS, max_positions=None)
    small, large = plan_of(facts, length=2048), plan_of(facts, length=2048, batch_size=3)
    assert large.memory.total > small.memory.total
    eager = plan_of(replace(facts, attention_implementation="eager"), length=2048)
    assert eager.memory.total >= small.memory.total + 3 * 2048**2 * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"length": 0}, r"--length 0: must be at least 1"),
        ({"batch_size": -1}, r"--batch-size -1: must be at least 1"),
        ({"length": 65}, r"--length 65 is longer than the 64 positions .* use --length 64 or less"),
    ],
)
def test_settings_that_contradict_the_model_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(**wrong)  # type: ignore[arg-type]


def test_a_model_without_a_longest_position_takes_any_length() -> None:
    assert plan_of(replace(FACTS, max_positions=None), length=10**6).dimensions.positions == 10**6
    assert plan_of(length=64).dimensions.positions == 64


def test_shortfalls_begin_one_byte_short() -> None:
    plan = plan_of()
    memory, disk = plan.memory.total, plan.expected_bytes
    assert shortfalls(plan, memory, disk) == []
    assert shortfalls(plan, None, disk) == []
    (reason,) = shortfalls(plan, memory - 1, disk)
    assert "of memory" in reason
    assert "--batch-size" in reason
    (reason,) = shortfalls(plan, memory, disk - 1)
    assert "of disk" in reason
    assert "--store" in reason
    assert len(shortfalls(plan, memory - 1, disk - 1)) == 2


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1 kB"), (1500, "1.5 kB"), (999_499, "999 kB"),
        (999_500, "1 MB"), (2**30, "1.07 GB"), (999_999_999_999, "1 TB"), (1.5e15, "1.5e+03 TB"),
    ],
)  # fmt: skip
def test_bytes_in_words(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (999, "999"), (1000, "1k"), (124_439_808, "124M"), (999_499, "999k"), (999_500, "1M"),
        (999_999_999, "1B"), (30_532_122_624, "30.5B"), (1_500_000_000_000, "1.5T"),
    ],
)  # fmt: skip
def test_parameters_in_words(count: int, text: str) -> None:
    assert human_count(count) == text


def test_a_plan_is_described() -> None:
    plan = plan_of(sites=(ATTN, ALIAS), batch_size=2)
    told = describe_plan(
        plan, model="tiny-moe", store="runs/tiny.zarr", device="cpu", available_bytes=None, disk_free_bytes=5_000_000
    )
    rows = {line[:12].strip(): line[12:] for line in told.splitlines()}
    assert rows["model"] == (
        "tiny-moe: TinyForCausalLM, 2 layers, hidden size 8; 128 + 1 shared experts, 8 a token (softmax, then top-k)"
    )
    assert rows["parameters"] == "30.5B, 3.04B active a token"
    assert rows["sites"] == "ln_attn, ln_mlp (same tensor as ln_attn)"
    assert rows["ln_attn"] == "layers.*.attn (1 layer), layers.*.linear (1 layer)"
    assert rows["ln_mlp"] == "layers.*.mlp (2 layers)"
    assert rows["tokens"] == "3 sequences x 16 = 48"
    assert rows["batches"] == "2 of 2"
    assert f"{human_bytes(plan.raw_bytes)} raw" in rows["store"]
    assert rows["disk"] == "5 MB free"
    assert "(unknown available)" in rows["memory"]


def test_auto_takes_the_first_engine_that_fits_and_says_why() -> None:
    facts = replace(FACTS, parameter_bytes=60 * 10**9, largest_layer_bytes=10**9, outside_layers_bytes=2 * 10**9)
    plan = plan_of(facts)
    resident = choose_engine(plan, "auto", plan.memory.total)
    assert (resident.engine, resident.memory.total) == ("resident", plan.memory.total)
    streamed = choose_engine(plan, "auto", plan.memory.total - 1)
    assert streamed.engine == "streamed"
    assert human_bytes(plan.memory.total) in streamed.engine_reason
    assert streamed.memory.total < plan.memory.total
    assert streamed.memory.weights == 4 * 10**9  # what is outside the layers, and two layers
    float8 = choose_engine(plan_of(replace(facts, quantisation="fp8")), "streamed", None)
    assert float8.memory.weights == 5 * 10**9  # and one being dequantised
    assert choose_engine(plan, "auto", None).engine == "resident"
    asked = choose_engine(plan, "streamed", None)
    assert (asked.engine, asked.engine_reason) == ("streamed", "as asked")


def test_layers_that_are_tied_together_are_never_streamed() -> None:
    facts = replace(FACTS, parameter_bytes=60 * 10**9, largest_layer_bytes=10**9, outside_layers_bytes=2 * 10**9)
    plan = plan_of(facts, coupling=Coupling("its layers hold hands", 10**6))
    assert choose_engine(plan, "auto", plan.memory.total).engine == "resident"
    lockstep = choose_engine(plan, "auto", plan.memory.total - 1)
    assert lockstep.engine == "lockstep"
    assert lockstep.engine_reason == (
        f"the whole model needs {human_bytes(plan.memory.total)}, {human_bytes(plan.memory.total - 1)} is available, "
        "and its layers hold hands"
    )
    assert lockstep.memory.weights == 4 * 10**9
    assert choose_engine(plan, "lockstep", None).engine == "lockstep"
    apart = choose_engine(plan_of(facts, coupling=Coupling(None, 10**6)), "streamed", None)
    each = 16 * FACTS.hidden_size * 2
    assert apart.memory.waiting == 3 * 3 * each + 10**6  # hidden states, two sites' peaks; one batch's arguments
    assert lockstep.memory.waiting == 3 * (4 * each + 10**6)
    with pytest.raises(InputError, match="--engine streamed: its layers hold hands; use --engine lockstep"):
        choose_engine(plan, "streamed", None)


def test_streaming_never_needs_more_weights_than_there_are() -> None:
    facts = replace(FACTS, parameter_bytes=1000, largest_layer_bytes=500, outside_layers_bytes=0)
    assert choose_engine(plan_of(facts), "streamed", None).memory.weights == 1000
