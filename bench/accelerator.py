"""On an accelerator: how fast layers arrive, what of a streamed capture is not reading, what a resident one costs.

Runs nowhere else. Models are random: two of the published geometries, cut to what a minute allows.
"""

from __future__ import annotations

import gc
import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.captures import Stores, default_plan
from bench.geometry import BYTES, NORMS, checkpoint_shapes
from bench.predictions import MEMORY_WITHIN, Prediction
from bench.rounds import Comparison, compare
from capture.device import choose_device, devices_of, host_memory
from capture.engines.resident import capture_resident
from capture.engines.streamed import capture_streamed
from capture.loss import decoder_of, token_nll
from capture.model_facts import Skeleton, build_skeleton
from capture.plan import CapturePlan, human_bytes
from capture.resume import LayerCheckpoints
from capture.sink import Sink
from capture.weights.layer_weights import READERS, LayerWeights
from schemas.retention import WHOLE, Retention
from schemas.run_writer import RunWriter
from tests.capture.published_configurations import PUBLISHED

__all__ = ["run", "write_random_checkpoint"]

LAYERS, VOCABULARY_SIZE = 8, 32768
STREAMED_SEQUENCES, STREAMED_LENGTH = 8, 512
RESIDENT_SEQUENCES, RESIDENT_LENGTH = 8, 2048
READ_BYTES = 16 * 2**20
REPEATED_VALUES = 2**24
"""Random numbers are written again and again: drawing all would take longer than the benchmark."""

DENSE: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": RESIDENT_LENGTH,
}
"""Llama 3.2's of 1.2 billion parameters."""


def run() -> Iterator[Comparison | Prediction]:
    """Four comparisons and two predictions; 10 GB in the folder for temporary files, which must fit in the page cache.

    Nothing where there is no accelerator.
    """
    device = devices_of(choose_device("auto"))[0]
    if device.type == "cpu":
        return
    with tempfile.TemporaryDirectory(prefix="accelerator-") as folder:
        published, checkpoint = PUBLISHED["qwen3-30b"], Path(folder, "qwen3")
        config = {**published.config, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY_SIZE}
        write_random_checkpoint(checkpoint, published.model_type, config)
        yield _reading(checkpoint, device)
        yield from _streamed(checkpoint, device)
        yield from _resident(Path(folder), device)


def write_random_checkpoint(folder: Path, model_type: str, config: Mapping[str, Any]) -> int:
    """config.json and one safetensors file, every byte written, in the published format; bytes of its tensors."""
    held, shapes = checkpoint_shapes(model_type, config)
    folder.mkdir(parents=True)
    held.save_pretrained(folder)
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        begin, end = end, end + BYTES[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    small = np.random.default_rng(0).standard_normal(REPEATED_VALUES, np.float32) * 0.02
    blocks = {of: (values.view(np.uint32) >> 16).astype("<u2") for of, values in ((False, small), (True, small + 1))}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, shape) in shapes.items():
            left = BYTES[dtype] * int(np.prod(shape))
            data = blocks[bool(NORMS.search(name))].view(np.uint8)
            while left:
                part = min(left, data.nbytes)
                stream.write(data[:part].data)
                left -= part
    return end


def _reading(checkpoint: Path, device: torch.device) -> Comparison:
    weights = LayerWeights(checkpoint, build_skeleton(checkpoint, "bfloat16"), device)
    tensors = [[weights.shards.tensors[name] for name in weights._recipes.names(layer)] for layer in range(LAYERS)]
    size = sum(tensor.size_bytes for layer in tensors for tensor in layer)
    what = f"{LAYERS} layers of Qwen3-30B ({human_bytes(size)}, in page cache)"

    def loaded() -> None:
        for layer in range(LAYERS):
            weights.load_layer(layer)
            weights.release_layer(layer)

    return compare(
        f"{what} read into their fused parameters on the accelerator",
        loaded,
        f"their bytes read by {READERS} threads into pinned memory and copied there, a layer at a time",
        _plain_reading(weights, device),
        rounds=5,
        bar=2.5,
    )


def _streamed(checkpoint: Path, device: torch.device) -> Iterator[Comparison | Prediction]:
    skeleton = build_skeleton(checkpoint, "bfloat16")
    plan = default_plan(skeleton, STREAMED_SEQUENCES, STREAMED_LENGTH, device=device)
    plan = replace(plan, engine="streamed")
    shape = (STREAMED_SEQUENCES, STREAMED_LENGTH)
    token_id = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, shape, np.int32)
    stores = Stores(checkpoint.parent / "stores", plan, token_id)

    def prepare() -> None:
        nonlocal skeleton
        stores.renew()
        skeleton = build_skeleton(checkpoint, "bfloat16")

    def captured() -> None:
        weights, writer = LayerWeights(checkpoint, skeleton, device), RunWriter(stores.path)
        checkpoints = LayerCheckpoints(writer)
        with Sink(writer, plan) as sink:
            capture_streamed(weights, plan, token_id, range(len(token_id)), sink, checkpoints, skeleton.dtype, device)
        checkpoints.remove()

    def read() -> None:
        weights = LayerWeights(checkpoint, skeleton, device)
        weights.load_outside()
        for layer in range(LAYERS):
            weights.load_layer(layer)
            weights.release_layer(layer)
        torch.accelerator.synchronize(device)

    what = f"streamed capture of {LAYERS} layers of Qwen3-30B, {STREAMED_SEQUENCES} x {STREAMED_LENGTH} tokens"
    prepare()
    yield _prediction(what, plan, captured)
    yield compare(
        what,
        captured,
        "their weights loaded alone",
        read,
        rounds=3,
        prepare=prepare,
    )


def _prediction(what: str, plan: CapturePlan, captured: Callable[[], None]) -> Prediction:
    """Of the accelerator's memory at its peak while ``captured`` runs."""
    gc.collect()
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    captured()
    peak = int(torch.accelerator.max_memory_allocated())
    return Prediction(f"predicted memory of the accelerator: {what}", plan.memory.total, peak, MEMORY_WITHIN)


def _plain_reading(weights: LayerWeights, device: torch.device) -> Callable[[], None]:
    """Reads the bytes of each layer, wherever they belong, and copies them to the device; waits for both."""
    shards = weights.shards
    pieces: list[list[tuple[str, int, int, int]]] = []
    for layer in range(LAYERS):
        end, parts = 0, []
        for name in weights._recipes.names(layer):
            size = shards.tensors[name].size_bytes
            for at in range(0, size, READ_BYTES):
                count = min(READ_BYTES, size - at)
                parts.append((name, at, end, count))
                end += count
        pieces.append(parts)
    most = max(end + count for parts in pieces for _, _, end, count in parts)
    staging = host_memory((most,), torch.uint8, device)
    target = torch.empty(most, dtype=torch.uint8, device=device)
    pool = ThreadPoolExecutor(READERS)

    def one(piece: tuple[str, int, int, int]) -> None:
        name, at, start, count = piece
        shards.read_into(name, staging[start : start + count].numpy().data, at)

    def read() -> None:
        for parts in pieces:
            list(pool.map(one, parts))
            target.copy_(staging, non_blocking=True)
            torch.accelerator.synchronize(device)

    return read


def _resident(folder: Path, device: torch.device) -> Iterator[Comparison | Prediction]:
    from transformers import AutoConfig, AutoModelForCausalLM

    held = AutoConfig.for_model("llama", **DENSE)
    held.dtype = "bfloat16"
    held.save_pretrained(folder / "dense")
    skeleton = build_skeleton(folder / "dense", "bfloat16")
    with device:
        model = AutoModelForCausalLM.from_config(held, dtype=torch.bfloat16).eval()
    shape = (RESIDENT_SEQUENCES, RESIDENT_LENGTH)
    token_id = np.random.default_rng(0).integers(0, DENSE["vocab_size"], shape, np.int32)
    for retention, kept in ((WHOLE, "slices and peaks"), (Retention(slices=False), "peaks alone")):
        yield from _overhead(folder / kept, model, skeleton, token_id, device, retention, kept)


def _overhead(
    folder: Path, model: Any, skeleton: Skeleton, token_id: Any, device: torch.device, retention: Retention, kept: str
) -> Iterator[Comparison | Prediction]:
    plan = default_plan(skeleton, RESIDENT_SEQUENCES, RESIDENT_LENGTH, retention, device)
    stores = Stores(folder, plan, token_id)

    def captured() -> None:
        with Sink(RunWriter(stores.path), plan) as sink:
            capture_resident(model, plan, token_id, range(len(token_id)), sink, skeleton.dtype, device)

    billions = skeleton.facts.total_parameters / 1e9
    shape = f"{RESIDENT_SEQUENCES} x {RESIDENT_LENGTH} tokens"
    what = f"resident capture of a dense model of {billions:.1f}B, {shape}, {kept}"
    if retention.slices:
        stores.renew()
        yield _prediction(what, plan, captured)
    yield compare(
        what,
        captured,
        "the same forward and loss, nothing kept",
        lambda: _forwards(model, plan, token_id, device),
        rounds=3,
        prepare=stores.renew,
    )


@torch.inference_mode()
def _forwards(model: Any, plan: CapturePlan, token_id: Any, device: torch.device) -> None:
    for sequence in range(len(token_id)):
        ids = torch.from_numpy(token_id[sequence : sequence + 1]).to(device).long()
        output = decoder_of(model)(input_ids=ids, use_cache=False)
        token_nll(model, ids, output, plan.loss_block_positions)
    torch.accelerator.synchronize(device)
