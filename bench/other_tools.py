"""The same capture with nnsight, as one would write it: what a trace saved, kept by torch.save; held to be the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from bench.captures import CPU, Stores, default_plan
from bench.rounds import Comparison, compare
from bench.small_model import SmallModel
from capture.corpus import load_tokenizer
from capture.engines.resident import load_model
from capture.loss import token_nll
from schemas.errors import CaptureError, MissingDependencyError
from schemas.layout import layer_peak_name, norm_array_name, position_peak_name
from schemas.run import Run

__all__ = ["run"]

SEQUENCES = 2
LENGTH = 2048
ROUNDS = 6
SITES = ("ln_attn", "ln_mlp")
RMS_WITHIN = 1e-5
"""Relative: sums of 576 squares in float32, in another order."""


def run() -> Iterator[Comparison]:
    """One comparison; MissingDependencyError where nnsight is not installed."""
    try:
        from nnsight import TransformersModel
    except ImportError:
        raise MissingDependencyError("this benchmark needs nnsight; make bench installs it") from None
    small = SmallModel(SEQUENCES, LENGTH)
    plan = default_plan(small.skeleton, SEQUENCES, LENGTH)
    # A model of its own: nnsight puts its hooks on every module, for good.
    theirs = load_model(small.folder, small.skeleton, CPU)
    traced = TransformersModel(theirs, tokenizer=load_tokenizer(small.folder), task="text-generation")
    with tempfile.TemporaryDirectory(prefix="other-tools-") as folder:
        stores = Stores(Path(folder, "stores"), plan, small.token_id)

        @torch.inference_mode()
        def with_nnsight() -> None:
            for sequence in range(SEQUENCES):
                ids = torch.from_numpy(small.token_id[sequence : sequence + 1]).long()
                kept = _kept_by_nnsight(traced, ids)
                kept["token_nll"] = token_nll(theirs, ids, kept.pop("output"), plan.loss_block_positions)
                file = Path(folder, f"{sequence}.pt")
                torch.save(kept, file)
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())

        stores.renew()
        small.fill(stores.path, plan)
        with_nnsight()
        _require_same(stores.path, Path(folder))
        yield compare(
            f"resident capture of {small.name}, {SEQUENCES} x {LENGTH} tokens, slices and peaks, synced to disk",
            lambda: small.fill(stores.path, plan),
            f"the same with nnsight {metadata.version('nnsight')} and torch.save, a file a sequence, synced to disk",
            with_nnsight,
            rounds=ROUNDS,
            bar=0.85,
            prepare=stores.renew,
        )


def _kept_by_nnsight(traced: Any, ids: torch.Tensor) -> dict[str, Any]:
    """The inputs of attention and MLP in every layer, their peaks, the root mean squares of what enters their norms,
    and what the loss is computed from."""
    hidden: list[torch.Tensor] = []
    entering: list[torch.Tensor] = []
    with traced.trace(ids, use_cache=False, logits_to_keep=1):
        for layer in traced.model.layers:
            entering.append(layer.input_layernorm.input.save())
            hidden.append(layer.self_attn.inputs[1]["hidden_states"].save())
            entering.append(layer.post_attention_layernorm.input.save())
            hidden.append(layer.mlp.input.save())
        final = traced.model.norm.output.save()
    kept: dict[str, Any] = {"output": BaseModelOutputWithPast(last_hidden_state=final)}
    for number, site in enumerate(SITES):
        layers = hidden[number :: len(SITES)]
        magnitude = torch.cat(layers).abs()
        kept[site] = layers
        kept[norm_array_name(site, "rms")] = torch.cat(
            [x.float().square().mean(dim=-1).sqrt() for x in entering[number :: len(SITES)]]
        )
        kept[layer_peak_name(site)] = magnitude.amax(dim=1)
        kept[position_peak_name(site)] = magnitude.amax(dim=0)
    return kept


def _require_same(store: Path, folder: Path) -> None:
    """Raise CaptureError unless both kept the same hidden states, peaks and losses, bit for bit, and the same root mean
    squares up to the order of sums in float32."""
    run = Run(store)
    for sequence in range(SEQUENCES):
        kept = torch.load(folder / f"{sequence}.pt")
        for site in SITES:
            theirs = {
                site: (torch.cat(kept[site]), (slice(None), sequence)),
                layer_peak_name(site): (kept[layer_peak_name(site)], (slice(None), sequence)),
                position_peak_name(site): (kept[position_peak_name(site)], (sequence,)),
            }
            for name, (tensor, index) in theirs.items():
                if not np.array_equal(run.read(name, index), tensor.view(torch.int16).numpy().view(np.uint16)):
                    raise CaptureError(f"nnsight kept another {name} of sequence {sequence}")
            rms = norm_array_name(site, "rms")
            if not np.allclose(run.read(rms, (slice(None), sequence)), kept[rms].numpy(), rtol=RMS_WITHIN, atol=0):
                raise CaptureError(f"nnsight kept another {rms} of sequence {sequence}")
        if not np.array_equal(run.read("token_nll", (sequence,)), kept["token_nll"][0].numpy(), equal_nan=True):
            raise CaptureError(f"nnsight kept another token_nll of sequence {sequence}")
