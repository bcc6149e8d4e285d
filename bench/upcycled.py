"""``make demo-moe``: capture a real mixture of experts whose outlier table is known beforehand.

SmolLM2-135M is "upcycled" into Mixtral's checkpoint format: every expert is a copy of the dense model's MLP, the router
is random. A token's expert weights sum to 1, so both models compute the same function, and the two outlier tables must
agree up to rounding. Computed in float32, where rounding is far below anything that could go wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from analyze.cli import main as analyze
from analyze.quantities import counted
from analyze.thresholds.answers import answer
from analyze.thresholds.question import ask
from capture.checkpoint import find_model, weight_files
from capture.cli import main as capture
from capture.packaged import cache_folder
from schemas.bits import magnitude_bits
from schemas.command import run_command
from schemas.errors import InputError
from schemas.layout import layer_peak_name
from schemas.run import Run

__all__ = ["Agreement", "agreement", "main", "upcycle"]

Patterns = npt.NDArray[np.int64]

EXPERTS = 4
TOP_K = 2
SHARD_BYTES = 200 * 10**6
NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
"""Llama's names of an MLP's matrices -> those of an expert in Mixtral's published checkpoint."""

ALLOWED_STEPS = 1024
"""Representable values of float32 that rounding may put between the two: 81 were measured, 50,000 and more where one
expert of one layer is off by 1% (docs/decisions/033-a-mixture-with-known-truth.md)."""


def upcycle(dense: Path, folder: Path, *, shard_bytes: int = SHARD_BYTES, seed: int = 0) -> Path:
    """``folder``, now a sharded Mixtral checkpoint that computes what the Llama checkpoint in ``dense`` does.

    Raises InputError for a checkpoint of another architecture, or with biases, which Mixtral has not.
    """
    from transformers import AutoConfig, MixtralConfig

    config = AutoConfig.from_pretrained(dense, local_files_only=True)
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias:
        raise InputError(f"{dense}: only a Llama checkpoint without biases can become a Mixtral one")
    shared = config.to_dict().keys() & MixtralConfig().to_dict().keys() - {"model_type", "architectures"}
    mixture = MixtralConfig(
        **{name: getattr(config, name) for name in shared}, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K
    )
    mixture.architectures = ["MixtralForCausalLM"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mixture.save_pretrained(folder)
    for file in dense.glob("tokenizer*"):
        shutil.copy(file, folder)
    _write_shards(folder, _tensors(dense, torch.Generator().manual_seed(seed)), shard_bytes)
    return folder


def _tensors(dense: Path, random: torch.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and values of each tensor of the mixture, from those of the dense checkpoint in their order."""
    for file in weight_files(dense):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                layer, inside, rest = name.partition(".mlp.")
                if not inside:
                    yield name, tensor
                    continue
                if rest.startswith("gate_proj"):
                    features = tensor.shape[1]
                    router = torch.randn(EXPERTS, features, generator=random) / math.sqrt(features)
                    yield f"{layer}.block_sparse_moe.gate.weight", router.to(tensor.dtype)
                matrix = NAMES[rest.removesuffix(".weight")]
                for expert in range(EXPERTS):
                    yield f"{layer}.block_sparse_moe.experts.{expert}.{matrix}.weight", tensor.clone()


def _write_shards(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], shard_bytes: int) -> None:
    """Cut by size, as a published checkpoint is: inside a layer, between two experts, wherever a file is full."""
    places: dict[str, str] = {}
    held: dict[str, torch.Tensor] = {}
    number = 1

    def write() -> None:
        file = f"model-{number:05}.safetensors"
        save_file(held, folder / file, {"format": "pt"})
        places.update(dict.fromkeys(held, file))
        held.clear()

    for name, tensor in tensors:
        held[name] = tensor
        if sum(each.nbytes for each in held.values()) >= shard_bytes:
            write()
            number += 1
    write()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@dataclass(frozen=True)
class Agreement:
    """The largest distances of two stores, in representable values.

    ``critical_steps``: of a (sequence, feature) pair's critical magnitudes, over all ``pairs``. ``peak_steps``: of the
    peaks of a feature in a sequence, over all cells.
    """

    pairs: int
    critical_steps: int
    peak_steps: int

    @property
    def holds(self) -> bool:
        """Whether rounding explains both."""
        return max(self.critical_steps, self.peak_steps) <= ALLOWED_STEPS


def agreement(one: Path, other: Path) -> Agreement:
    """That of two finished stores of the same text.

    Sign-cleared bit patterns order like magnitudes, so the difference of two patterns counts representable values.
    """
    critical, *peaks = zip(_patterns(one), _patterns(other), strict=True)
    critical_steps, *peak_steps = (int(np.abs(a - b).max()) for a, b in (critical, *peaks))
    return Agreement(critical[0].size, critical_steps, max(peak_steps))


def _patterns(store: Path) -> Iterator[Patterns]:
    """Critical magnitudes (sequence, feature), then each site's peaks (layer, sequence, feature), as patterns."""
    (result,) = answer(store, ask("0"))
    run = Run(store)
    yield result.tally.critical.astype(np.int64)
    for array in result.plan.arrays:
        yield magnitude_bits(run.read(layer_peak_name(array)), run.encoding).astype(np.int64)


def demonstrate(model: str, sequences: int, length: int, stores: Path, magnitude: str) -> int:
    """Capture both models, print their rows and whether they agree; the exit status, 1 where they do not.

    The mixture's checkpoint lies in the cache folder while it is captured.
    """
    source = find_model(model)
    if source.folder is None:
        raise InputError(f"the weights of {model} are not on this machine; install the demo's: make install")
    name = source.default_store.stem
    mixture = cache_folder() / f"{name.split('-')[0]}-moe"
    dense_store, mixture_store = (stores / f"{each}-float32-{sequences}x{length}.zarr" for each in (name, mixture.name))
    flags = ["--text", "pydoc", "--dtype", "float32", "--keep", "peaks"]
    flags += ["--sequences", str(sequences), "--length", str(length)]
    try:
        upcycle(source.folder, mixture)
        for checkpoint, store in ((model, dense_store), (str(mixture), mixture_store)):
            status = capture(["--model", checkpoint, "--store", str(store), *flags])
            if status:
                return status
    finally:
        shutil.rmtree(mixture, ignore_errors=True)
    print()
    status = analyze(["--store", str(dense_store), str(mixture_store), "--magnitude", magnitude])
    if status:
        return status
    found = agreement(dense_store, mixture_store)
    print(f"\n{_verdict(found)}")
    return 0 if found.holds else 1


def _verdict(found: Agreement) -> str:
    holds = "The two rows agree" if found.holds else "THE TWO ROWS SHOULD AGREE, AND DO NOT"
    return textwrap.fill(
        f"{holds}: every expert is a copy of the dense model's MLP and a token's expert weights sum to 1, so both "
        f"models compute one function, up to rounding. Over all {found.pairs:,} (sequence, feature) pairs their "
        f"critical magnitudes are at most {counted(found.critical_steps, 'representable value')} of float32 apart, "
        f"their peaks in any cell {found.peak_steps:,}; {ALLOWED_STEPS:,} are allowed.",
        100,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (default: the process's own); its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.upcycled", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a local Llama checkpoint (default: smollm2-135m)")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--stores", type=Path, default=Path("runs"), help="folder of the two stores (default: runs)")
    parser.add_argument("--magnitude", default="3")
    options = parser.parse_args(argv)
    return run_command("demo-moe", lambda: demonstrate(**vars(options)))


if __name__ == "__main__":
    sys.exit(main())
