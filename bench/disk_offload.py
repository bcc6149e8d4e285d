"""A streamed capture against accelerate's disk offload: two ways to run a model that does not fit in memory.

Offload reads all weights once for each forward, the streamed engine once for all of them. To be quick the model here is
of 0.9 GB (in float32 of 1.8 GB), so what would not happen to one larger than memory must be prevented: that a forward
finds the weights in the page cache because the forward before it read them. They are dropped from it before each.
Sequences are short, so that reading decides and not the processor, as it does where an accelerator computes. Where all
fit, as here, the streamed engine takes them through a layer in one batch (``--batch-size auto``); the other rows tell
what of the ratio is that.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.captures import Stores, default_plan, fill_streamed, quick_dtype
from bench.rounds import Comparison, compare
from capture.loss import decoder_of, token_nll
from capture.model_facts import DTYPES, build_skeleton
from capture.plan import human_bytes

__all__ = ["run"]

SEQUENCES = 16
LENGTH = 64
ROUNDS = 3
CONFIGURATION: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "num_experts": 32,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "intermediate_size": 512,
    "vocab_size": 4096,
}
"""A Qwen3 mixture of experts of 0.9 GB in bfloat16, 105 MB a layer, one expert in 16 at work as in Qwen3-30B."""


def run() -> Iterator[Comparison]:
    """Three comparisons; takes 4 GB in the folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="disk-offload-") as folder:
        checkpoint = Path(folder, "checkpoint")
        dtype = quick_dtype()
        size = _write_checkpoint(checkpoint, dtype)
        skeleton = build_skeleton(checkpoint, dtype)
        plan = default_plan(skeleton, SEQUENCES, LENGTH)
        token_id = np.random.default_rng(0).integers(0, CONFIGURATION["vocab_size"], (SEQUENCES, LENGTH), np.int32)
        offload = Path(folder, "offload")
        shutil.copytree(checkpoint, offload)  # its own: pages that it maps cannot be dropped
        offloaded = _offloaded(offload, offload, dtype)
        stores = Stores(Path(folder, "stores"), plan, token_id)

        def prepare() -> None:
            nonlocal skeleton
            stores.renew()
            skeleton = build_skeleton(checkpoint, dtype)

        def streamed(batch_size: int) -> None:
            _drop_from_page_cache(checkpoint)
            fill_streamed(stores.path, replace(plan, batch_size=batch_size), checkpoint, skeleton, token_id)

        @torch.inference_mode()
        def forwards(batch_size: int) -> None:
            for start in range(0, SEQUENCES, batch_size):
                _drop_from_page_cache(offload)
                ids = torch.from_numpy(token_id[start : start + batch_size]).long()
                output = decoder_of(offloaded)(input_ids=ids, use_cache=False)
                token_nll(offloaded, ids, output, plan.loss_block_positions)

        what = (
            f"streamed capture of a mixture of {CONFIGURATION['num_hidden_layers']} x {CONFIGURATION['num_experts']} "
            f"experts, {human_bytes(size)} in {dtype}, {SEQUENCES} x {LENGTH} tokens"
        )
        against = "forward and loss alone with accelerate's disk offload"
        for captured, forwarded, bar in ((SEQUENCES, 1, 0.2), (1, 1, None), (SEQUENCES, SEQUENCES, None)):
            yield compare(
                f"{what}, {_batches(captured)}",
                partial(streamed, captured),
                f"{against}, {_batches(forwarded)}",
                partial(forwards, forwarded),
                rounds=ROUNDS,
                bar=bar,
                prepare=prepare,
            )


def _batches(size: int) -> str:
    return "in one batch" if size == SEQUENCES else f"in batches of {size}"


def _write_checkpoint(folder: Path, dtype: str) -> int:
    """A model of random weights; bytes of its tensors."""
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**CONFIGURATION), dtype=DTYPES[dtype])
    model.save_pretrained(folder)
    os.sync()
    return sum(parameter.nbytes for parameter in model.parameters())


def _offloaded(checkpoint: Path, folder: Path, dtype: str) -> Any:
    """The model of ``checkpoint`` with its layers on disk, some of them in ``folder``, and the rest in memory."""
    from transformers import AutoModelForCausalLM

    places = {f"model.layers.{layer}": "disk" for layer in range(CONFIGURATION["num_hidden_layers"])}
    return AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=DTYPES[dtype],
        device_map={
            "model.embed_tokens": "cpu",
            **places,
            "model.norm": "cpu",
            "model.rotary_emb": "cpu",
            "lm_head": "cpu",
        },
        offload_folder=folder,
    ).eval()


def _drop_from_page_cache(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
