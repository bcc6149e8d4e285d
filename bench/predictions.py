"""Peak memory of a capture in a process of its own, and bytes of its store, against what the dry run predicts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.geometry import write_sparse_checkpoint
from capture.checkpoint import find_model
from capture.plan import human_bytes
from capture.preparation import CaptureSettings, prepare
from schemas.errors import InputError
from schemas.run import store_bytes

__all__ = ["FAMILIES", "MEMORY_WITHIN", "Prediction", "predicted_and_measured", "run", "write_family"]

MEMORY_WITHIN, STORE_WITHIN = 0.2, 0.15
"""How far a prediction may be off, of what is measured."""

SMALL_MODEL = "smollm2-135m"

_SIZES = {
    "vocab_size": 65536,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
}
_EXPERTS = {"num_experts": 64, "num_experts_per_tok": 4}

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "dense": ("llama", _SIZES | {"num_hidden_layers": 8, "intermediate_size": 4096}),
        "experts": (
            "qwen3_moe",
            _SIZES
            | _EXPERTS
            | {
                "num_hidden_layers": 5,
                "intermediate_size": 2048,
                "moe_intermediate_size": 512,
                "mlp_only_layers": [],
            },
        ),
        "MXFP4": (
            "gpt_oss",
            _SIZES
            | {
                "num_hidden_layers": 4,
                "intermediate_size": 1024,
                "num_local_experts": 32,
                "num_experts_per_tok": 4,
                "sliding_window": 128,
            },
        ),
        "linear attention": (
            "qwen3_next",
            _SIZES
            | _EXPERTS
            | {
                "num_hidden_layers": 4,
                "intermediate_size": 2048,
                "moe_intermediate_size": 256,
                "shared_expert_intermediate_size": 256,
                "linear_key_head_dim": 64,
                "linear_value_head_dim": 64,
                "linear_num_key_heads": 8,
                "linear_num_value_heads": 16,
            },
        ),
        "sandwich norms": (
            "gemma3_text",
            _SIZES | {"num_hidden_layers": 6, "intermediate_size": 4096, "sliding_window": 128},
        ),
    }
)
"""Model type and configuration of models of 0.3 to 1.3 GB, one of each kind of memory."""

CASES = (
    ("dense", "resident", 2, 1024, 1),
    ("dense", "resident", 4, 2048, 4),
    ("dense", "streamed", 8, 1024, 2),
    ("experts", "resident", 2, 512, 1),
    ("experts", "streamed", 1, 4096, 1),
    ("experts", "lockstep", 4, 512, 1),
    ("MXFP4", "resident", 2, 512, 1),
    ("MXFP4", "streamed", 1, 2048, 1),
    ("linear attention", "streamed", 1, 4096, 1),
    ("sandwich norms", "lockstep", 4, 512, 4),
    (SMALL_MODEL, "resident", 2, 2048, 1),
)
"""Family, engine, sequences, length, batch size."""

CHILD = """
import sys
from capture.cli import main
status = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(status)
"""


@dataclass(frozen=True)
class Prediction:
    """Bytes as predicted and as measured; ``ratio`` is how far off, of what is measured, and ``bar`` what it may be."""

    name: str
    predicted: int
    measured: int
    bar: float

    @property
    def ratio(self) -> float:
        """Distance from 1 of predicted over measured."""
        return abs(self.predicted / self.measured - 1)

    def row(self) -> dict[str, str]:
        """One row of the document's table, by column."""
        return {
            "what": self.name,
            "against": "what is measured",
            "ratio (median)": f"{self.predicted / self.measured:.3g}",
            "range": "-",
            "bar": f"{1 - self.bar:g} to {1 + self.bar:g}",
            "takes": human_bytes(self.predicted),
            "baseline takes": human_bytes(self.measured),
        }


def write_family(name: str, folder: Path, **other: Any) -> None:
    """A checkpoint of the family ``name`` in ``folder``, experts as holes, with a tokenizer; ``other`` configuration
    takes the place of the family's."""
    model_type, config = FAMILIES[name]
    write_sparse_checkpoint(folder, model_type, {**config, **other})
    tokenizer = find_model(SMALL_MODEL).folder
    if tokenizer is None:
        raise InputError("predictions are measured with the packaged model's tokenizer: make install")
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder)


def predicted_and_measured(
    model: str, store: Path, engine: str, sequences: int, length: int, batch_size: int
) -> tuple[Prediction, Prediction]:
    """Peak memory and bytes of the ``store`` that a capture in a process of its own makes."""
    settings = CaptureSettings(
        model,
        (),
        store=str(store),
        text="pydoc",
        sequences=str(sequences),
        length=length,
        batch_size=batch_size,
        engine=engine,
        device="cpu",
    )
    plan = prepare(settings).plan
    flags = ["--model", model, "--store", store, "--text", "pydoc", "--engine", engine, "--device", "cpu", "-q"]
    flags += ["--sequences", sequences, "--length", length, "--batch-size", batch_size]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, flags)], stdout=subprocess.PIPE, text=True, check=True
    )
    peak = int(child.stdout.rsplit("VmHWM:", 1)[1].split()[0]) * 1024
    shape = f"{Path(model).name}, {engine}, {sequences} x {length} tokens in batches of {batch_size}"
    return (
        Prediction(f"predicted peak memory: {shape}", plan.memory.total, peak, MEMORY_WITHIN),
        Prediction(f"predicted bytes of the store: {shape}", plan.expected_bytes, store_bytes(store), STORE_WITHIN),
    )


def run() -> Iterator[Prediction]:
    """Two predictions a case; a model is written once, for those that follow each other."""
    written = ""
    with tempfile.TemporaryDirectory(prefix="predictions-") as made:
        for family, *shape in CASES:
            folder = Path(made, family)
            if family != SMALL_MODEL and family != written:
                if written:
                    shutil.rmtree(Path(made, written))
                write_family(family, folder)
                written = family
            store = Path(made, "run.zarr")
            yield from predicted_and_measured(
                family if family == SMALL_MODEL else str(folder),
                store,
                *shape,  # type: ignore[arg-type]
            )
            shutil.rmtree(store)
