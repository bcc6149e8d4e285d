"""SmolLM2-135M on real text: loaded, captured, or just run.

Where the package with its weights is not installed, a model of its geometry with random weights takes its place, on
random tokens, and is called so.
"""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.captures import CPU
from capture.checkpoint import find_model
from capture.corpus import WindowSettings, load_tokenizer, read_corpus
from capture.engines.resident import capture_resident, load_model
from capture.loss import decoder_of, token_nll
from capture.model_facts import build_skeleton
from capture.plan import CapturePlan
from capture.sink import Sink
from capture.text import NAMED_SOURCES
from schemas.errors import OutlierFeaturesError
from schemas.run_writer import RunWriter
from tests.checkpoints.tokenizer import write_tokenizer

__all__ = ["SmallModel"]


GEOMETRY: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}


class SmallModel:
    """SmolLM2-135M in memory, and token ids (sequence, position) of the text that comes with Python; ``name`` says
    which model it is."""

    def __init__(self, sequences: int, length: int, dtype: str = "auto") -> None:
        """Load it; "auto" is bfloat16."""
        folder = _packaged_folder()
        self.name = "SmolLM2-135M" if folder else "SmolLM2-135M's geometry, random weights and tokens"
        self.folder: Path = folder or _random_checkpoint()
        if dtype == "float32":
            self.name += " in float32"
        self.skeleton = build_skeleton(self.folder, dtype)
        self.model: Any = None
        self.load()
        if folder:
            settings = WindowSettings(sequences, length)
            self.token_id = read_corpus(NAMED_SOURCES["pydoc"], load_tokenizer(self.folder), settings).token_id
        else:
            shape = (sequences, length)
            self.token_id = np.random.default_rng(0).integers(0, GEOMETRY["vocab_size"], shape, np.int32)

    def load(self) -> None:
        """Read the weights, again where they were read before."""
        self.model = load_model(self.folder, self.skeleton, CPU)

    def fill(self, store: Path, plan: CapturePlan) -> None:
        """Fill the empty ``store`` by the resident engine."""
        sequences = range(plan.dimensions.sequences)
        with Sink(RunWriter(store), plan) as sink:
            capture_resident(self.model, plan, self.token_id, sequences, sink, self.skeleton.dtype, CPU)

    @torch.inference_mode()
    def forward(self, plan: CapturePlan) -> None:
        """The forwards and losses of a capture, of which nothing is kept."""
        for sequence in range(plan.dimensions.sequences):
            ids = torch.from_numpy(self.token_id[sequence : sequence + 1]).long()
            output = decoder_of(self.model)(input_ids=ids, use_cache=False)
            token_nll(self.model, ids, output, plan.loss_block_positions)


def _packaged_folder() -> Path | None:
    try:
        return find_model("smollm2-135m").folder
    except OutlierFeaturesError:
        return None


@functools.cache
def _random_checkpoint() -> Path:
    """A folder that lives as long as this process."""
    from transformers import AutoConfig, AutoModelForCausalLM

    made = tempfile.TemporaryDirectory(prefix="small-model-")
    atexit.register(made.cleanup)
    folder = Path(made.name)
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **GEOMETRY)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, GEOMETRY["vocab_size"])
    return folder
