"""What a layer's weights cost to read: Qwen3-30B's, expert by expert in its checkpoint, and GPT-OSS's MXFP4 experts."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.geometry import checkpoint_shapes
from bench.rounds import Comparison, compare
from capture.model_facts import build_skeleton
from capture.weights.layer_weights import LayerWeights
from tests.capture.published_configurations import PUBLISHED

__all__ = ["run"]

CPU = torch.device("cpu")
BYTES = {"BF16": 2, "U8": 1}


def run() -> Iterator[Comparison]:
    """Three comparisons; needs 3 GB of memory and 1.3 GB in the folder for temporary files, all of it in page cache."""
    with tempfile.TemporaryDirectory(prefix="layer-reading-") as folder:
        weights = _one_layer(Path(folder, "qwen3"), "qwen3-30b", {})
        shards, names = weights.shards, weights._recipes.names(0)
        buffer = np.empty(max(shards.tensors[name].size_bytes for name in names), np.uint8)

        def loaded() -> None:
            weights.load_layer(0)
            weights.release_layer(0)

        def converted() -> None:
            weights._converter.convert({name: shards.lazy(name) for name in names})

        def read() -> None:
            for name in names:
                shards.read_into(name, buffer[: shards.tensors[name].size_bytes].data)

        size = sum(shards.tensors[name].size_bytes for name in names)
        what = f"a layer of Qwen3-30B ({size / 1e9:.1f} GB, in page cache)"
        again = "its bytes read into a buffer that is used again"
        yield compare(f"{what} read into its fused parameters", loaded, again, read, rounds=7, bar=2.5)
        yield compare(f"{what} through transformers' converter", converted, again, read, rounds=3)
        del weights, shards

    with tempfile.TemporaryDirectory(prefix="layer-reading-") as folder:
        weights = _one_layer(Path(folder, "gpt-oss"), "gpt-oss-20b", {"num_local_experts": 4})
        shards, names = weights.shards, weights._recipes.names(0)
        yield compare(
            "a layer of GPT-OSS-20B with 4 of its 32 experts, MXFP4 unpacked by table",
            loaded,
            "through transformers' converter",
            converted,
            rounds=5,
            bar=0.5,
        )


def _one_layer(folder: Path, model: str, changed: Mapping[str, Any]) -> LayerWeights:
    """The weights of ``model`` cut to one layer and a small vocabulary, of random bytes; that layer was loaded once."""
    published = PUBLISHED[model]
    config = {**published.config, "num_hidden_layers": 1, "vocab_size": 256, **changed}
    config["layer_types"] = config["layer_types"][:1] if config.get("layer_types") else None
    held, shapes = checkpoint_shapes(published.model_type, {k: v for k, v in config.items() if v is not None})
    folder.mkdir()
    held.save_pretrained(folder)
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        begin, end = end, end + BYTES[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        while end:
            part = min(end, 2**24)
            stream.write(random.bytes(part))
            end -= part
    weights = LayerWeights(folder, build_skeleton(folder, "bfloat16"), CPU)
    weights.load_layer(0)
    weights.release_layer(0)
    return weights
