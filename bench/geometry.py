"""``make geometry MODEL=...``: capture a checkpoint of a published model's full geometry, one layer at a time.

The checkpoint is written as sparse files: expert weights are holes, everything else random, so that a model of 100
billion parameters takes a few GB of disk. What is measured is real all the same: every byte is read. OLMoE's is
written in float32, as published, and captured in bfloat16. Exit 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.figures import Row, as_table, record_geometry
from capture.plan import human_bytes, human_count
from capture.preparation import CaptureSettings, prepare
from capture.presets import PRESETS
from tests.capture.published_configurations import PUBLISHED
from tests.checkpoints import VOCABULARY_SIZE, write_tokenizer

__all__ = ["main", "write_sparse_checkpoint"]

EXPERTS = re.compile(r"\.experts\.")
NORMS = re.compile(r"norm[^.]*\.weight$")
SHARD_BYTES = 5 * 10**9
BYTES = {"F32": 4, "BF16": 2, "U8": 1}
PUBLISHED_IN_FLOAT32 = ("olmoe",)
SPARE_BYTES = 2 * 10**9
"""What a capture may take beside two layers, what is outside any layer, and the hidden states."""
MOST_BYTES = 16 * 10**9
"""What a capture of any of the seven may take."""
PREDICTED_WITHIN = 0.2
"""How far the dry run's prediction of peak memory may be off."""
READ_AT_MOST = 1.02
"""Bytes read, of those of the checkpoint: each once, and the fingerprint's samples."""

Shapes = dict[str, tuple[str, tuple[int, ...]]]


def checkpoint_shapes(model_type: str, config: Mapping[str, Any]) -> tuple[Any, Shapes]:
    """(configuration, tensor name on disk -> dtype and shape) of a model in its published checkpoint's own format."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    held = AutoConfig.for_model(model_type, **config)
    dtype = "F32" if model_type in PUBLISHED_IN_FLOAT32 else "BF16"
    held.dtype = "float32" if dtype == "F32" else "bfloat16"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(held, dtype=torch.bfloat16)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    shapes: Shapes = {}
    for name, tensor in revert_weight_conversion(model, state).items():
        shape = tuple(tensor.shape)
        if model_type == "gpt_oss" and EXPERTS.search(name) and not name.endswith("bias"):
            experts, inputs, outputs = shape  # in memory (experts, in, out); on disk rows of out, blocks of 32 along in
            shapes[f"{name}_blocks"] = ("U8", (experts, outputs, inputs // 32, 16))
            shapes[f"{name}_scales"] = ("U8", (experts, outputs, inputs // 32))
        else:
            shapes[name] = (dtype, shape)
    if model_type == "gpt_oss":
        held.quantization_config = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    return held, shapes


def _shards(shapes: Shapes) -> Iterator[Shapes]:
    shard: Shapes = {}
    for name, (dtype, shape) in shapes.items():
        if shard and _size(shard) + BYTES[dtype] * math.prod(shape) > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = (dtype, shape)
    yield shard


def _size(shapes: Shapes) -> int:
    return sum(BYTES[dtype] * math.prod(shape) for dtype, shape in shapes.values())


def write_sparse_checkpoint(folder: Path, model_type: str, config: Mapping[str, Any]) -> int:
    """Write config.json and sparse safetensors shards into ``folder``; the bytes of the checkpoint's tensors."""
    held, shapes = checkpoint_shapes(model_type, config)
    folder.mkdir(parents=True, exist_ok=True)
    held.save_pretrained(folder)
    random = np.random.default_rng(0)
    index: dict[str, str] = {}
    shards = list(_shards(shapes))
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        header: dict[str, Any] = {}
        offset = 0
        for name, (dtype, shape) in shard.items():
            size = BYTES[dtype] * math.prod(shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
            index[name] = file.name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            start = stream.tell()
            stream.truncate(start + offset)
            for name, about in header.items():
                if EXPERTS.search(name):
                    continue
                stream.seek(start + about["data_offsets"][0])
                _write_random(stream, random, math.prod(about["shape"]), about["dtype"], bool(NORMS.search(name)))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return _size(shapes)


def _write_random(stream: Any, random: np.random.Generator, count: int, dtype: str, norm: bool) -> None:
    """``count`` values of ``dtype``, F32 or BF16: around 1 for a norm's gain, small otherwise."""
    while count:
        part = min(count, 2**24)
        values = random.standard_normal(part, np.float32) * 0.02 + (1.0 if norm else 0.0)
        stream.write((values if dtype == "F32" else (values.view(np.uint32) >> 16).astype("<u2")).tobytes())
        count -= part


CHILD = """
import sys
import capture.session
from capture.cli import main

def read():
    return int(dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())["rchar"])

before = read()  # Python and its modules
status = main(sys.argv[1:])
print("rchar", read() - before)
sys.exit(status)
"""


def measure(name: str, folder: Path, positions: int) -> tuple[Row, list[str]]:
    """Capture ``name`` at full geometry below ``folder``; its figures, and the bars that were missed."""
    published = PUBLISHED[name]
    checkpoint = folder / name
    checkpoint_bytes = write_sparse_checkpoint(checkpoint, published.model_type, published.config)
    write_tokenizer(checkpoint, VOCABULARY_SIZE)  # few ids: every one is in each of the seven vocabularies
    flags = ["--text", "pydoc", "--sequences", "1", "--length", str(positions), "--engine", "streamed"]
    dtype = PRESETS[name].dtype or "bfloat16"
    flags += ["--dtype", dtype]
    settings = CaptureSettings(
        str(checkpoint),
        (),
        store=str(folder / "run.zarr"),
        text="pydoc",
        sequences="1",
        length=positions,
        engine="streamed",
        dtype=dtype,
    )
    plan = prepare(settings).plan
    facts, predicted = plan.facts, plan.memory.total
    hidden_bytes = 2 * positions * facts.hidden_size
    bar = 2 * facts.largest_layer_bytes + facts.outside_layers_bytes + hidden_bytes + SPARE_BYTES
    started = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, "--model", str(checkpoint), "--store", str(folder / "run.zarr"), *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - started
    if child.returncode:
        raise SystemExit(f"the capture of {name} failed with exit status {child.returncode}")
    read = int(child.stdout.rsplit("rchar", 1)[1])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    part = read / checkpoint_bytes
    missed = [
        f"{what} {value}, the bar is {limit}"
        for what, value, limit, over in (
            ("peak memory", human_bytes(peak), human_bytes(bar), peak > bar),
            ("peak memory", human_bytes(peak), human_bytes(MOST_BYTES), peak >= MOST_BYTES),
            (
                "peak memory",
                human_bytes(peak),
                f"{human_bytes(predicted)} as predicted, within {PREDICTED_WITHIN:.0%}",
                abs(predicted / peak - 1) > PREDICTED_WITHIN,
            ),
            ("bytes read", f"{part:.3f} of the checkpoint", READ_AT_MOST, part > READ_AT_MOST),
        )
        if over
    ]
    row = {
        "model": name,
        "parameters": human_count(int(published.total_billions * 1e9)),
        "checkpoint": human_bytes(checkpoint_bytes),
        "bytes read (of it)": f"{human_bytes(read)} ({part:.3f})",
        "peak memory": human_bytes(peak),
        "predicted": human_bytes(predicted),
        "its bar": human_bytes(bar),
        "tokens": str(positions),
        "seconds": f"{seconds:.0f}",
    }
    return row, missed


def main() -> int:
    """Measure one model and remove what it took; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, choices=list(PUBLISHED))
    parser.add_argument("--length", type=int, default=64, help="tokens (default: 64)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="geometry-") as folder:
        row, missed = measure(options.model, Path(folder), options.length)
    print(as_table([row]), end="")
    record_geometry(options.model, row)
    for line in missed:
        print(f"geometry: {options.model}: {line}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
