"""SmolLM2-135M on real text: loaded, captured, or just run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from schemas.errors import InputError
from schemas.run import RunWriter

__all__ = ["SmallModel"]


class SmallModel:
    """SmolLM2-135M in memory, and token ids (sequence, position) of the text that comes with Python."""

    def __init__(self, sequences: int, length: int) -> None:
        """Load it; InputError where the demo's model is not installed."""
        source = find_model("smollm2-135m")
        if source.folder is None:
            raise InputError("the benchmark needs the packaged model: make install")
        self.folder: Path = source.folder
        self.skeleton = build_skeleton(self.folder, "auto")
        self.model: Any = None
        self.load()
        settings = WindowSettings(sequences, length)
        self.token_id = read_corpus(NAMED_SOURCES["pydoc"], load_tokenizer(self.folder), settings).token_id

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
