"""One capture from start to end: prepare, cut the text, open or create the store, run, report."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
import transformers

from capture.compression import as_stored
from capture.corpus import (
    Corpus,
    WindowSettings,
    load_tokenizer,
    read_corpus,
    require_vocabulary,
    tokenizer_digest,
)
from capture.device import available_memory_bytes
from capture.engines.lockstep import capture_lockstep
from capture.engines.resident import capture_resident, load_model, placement
from capture.engines.streamed import capture_streamed
from capture.part import Part, whole_command
from capture.plan import CapturePlan, human_bytes, routing_in_words, windows_in_words
from capture.preparation import CaptureSettings, Prepared, missing_sequences, prepare
from capture.progress import Progress
from capture.record import describe_run
from capture.resume import LayerCheckpoints, remove_left_checkpoints
from capture.sink import Sink
from capture.summary import summarise
from capture.text import TextSource, pinned
from capture.upload import Upload
from capture.weights.layer_weights import LayerWeights
from capture.weights.passing_shards import EvictingWeights, remove_shards
from schemas.create import create_run, remove_drafts
from schemas.errors import CapacityError, SignatureError, StoreExistsError
from schemas.provenance import CorpusInfo, RunInfo, differences
from schemas.remote import is_url
from schemas.run import Run
from schemas.run_writer import RunWriter
from schemas.token_text import stored_token_text

__all__ = ["CaptureSettings", "run_capture"]


def run_capture(settings: CaptureSettings) -> int:
    """Capture as ``settings`` say and print what came of it; the exit status.

    Raises an error of ``schemas.errors`` where something stands in the way; the store is then resumable.
    """
    if settings.store is not None and is_url(settings.store):
        return _run_and_upload(settings, settings.store)
    started = time.monotonic()
    _quieten_transformers(settings)
    prepared = prepare(settings)
    if settings.dry_run:
        print(prepared.description())
    if reasons := prepared.shortfalls():
        raise CapacityError("; ".join(reasons))
    if settings.dry_run:
        prepared.require_weights()
    if settings.dry_run and prepared.existing is None and prepared.text.is_remote:
        return 0  # nothing is asked of a text on the Hub; any other is read, and refused, as it will be
    corpus, info = _read_corpus(prepared)
    if prepared.existing is not None:
        _require_same(prepared.existing, info)
    if settings.dry_run:
        return 0
    store, part, missing = prepared.store, prepared.part, prepared.missing
    if missing:
        missing = _execute(prepared, corpus, info, missing)
    else:
        what = store if part.is_whole else f"sequences {part} in {store}"
        _say(settings, f"{what} {'is' if part.is_whole else 'are'} complete already; nothing to compute")
        remove_left_checkpoints(RunWriter(store))  # of one that ended between its last commit and this; opening sweeps
    remove_shards(store)
    print(summarise(store, time.monotonic() - started, len(missing), part))
    return 0


def _run_and_upload(settings: CaptureSettings, url: str) -> int:
    """Capture into a local folder and copy that to the bucket at ``url``; the exit status."""
    upload = Upload(url, overwrite=settings.overwrite, try_writing=not settings.dry_run)
    _say(settings, f"the store is made in {upload.folder}, then copied to {upload.remote.url}")
    status = run_capture(replace(settings, store=str(upload.folder)))
    if status or settings.dry_run:
        return status
    done = upload.send(lambda line: _say(settings, line))
    print(
        f"uploaded     {done.sent:,} objects, {human_bytes(done.bytes)}"
        + (f" ({done.kept:,} were there already)" if done.kept else "")
        + f" to {upload.remote.url}; {upload.folder} can be removed\n"
        f"next         {shlex.join(['analyze', '--store', upload.remote.url, '--magnitude', '6'])}"
    )
    return 0


def _read_corpus(prepared: Prepared) -> tuple[Corpus, RunInfo]:
    """The windows of text, and what the run says about itself.

    The checkpoint is on this machine afterwards, but for a dry run, and for shards that are to pass by.
    """
    settings, snapshot = prepared.settings, prepared.snapshot
    corpus, corpus_info = _corpus(prepared.text, snapshot.folder, prepared.windows, prepared.existing)
    require_vocabulary(corpus, prepared.skeleton.facts.vocabulary_size, snapshot.folder)
    if snapshot.unreachable is not None or not (settings.evict or settings.dry_run):
        snapshot.fetch()
    command = whole_command(settings.command, prepared.part)
    return corpus, describe_run(snapshot, prepared.plan, corpus_info, prepared.devices[0], command)


def _execute(prepared: Prepared, corpus: Corpus, info: RunInfo, missing: list[int]) -> list[int]:
    """Run the ``missing`` sequences into the store, which is made where there is none; those that were run."""
    settings, plan, part, store = prepared.settings, prepared.plan, prepared.part, prepared.store
    skeleton, device = prepared.skeleton, prepared.devices[0]
    if prepared.existing is not None:
        _require_arrays(prepared.existing, plan)
    _say(settings, _opening_line(store, plan, part, device, len(part.sequences) - len(missing)))
    if prepared.existing is None and not settings.quiet and (advice := prepared.advice()):
        _say(settings, advice)
    if plan.routing is not None and (plan.routing.absent or plan.routing.peak_absent):
        _say(settings, f"routing: {routing_in_words(plan.routing)}")
    # Before the store is made or replaced: a checkpoint that cannot be loaded leaves everything as it was.
    weights, model = _weights(prepared)
    if prepared.existing is None:
        prepared.destination.clear()
        missing = missing_sequences(_made_or_joined(store, info, plan, corpus, prepared.codecs), part)
    writer = RunWriter(store)
    checkpoints = LayerCheckpoints(writer)
    with (
        _full_device(plan, device),
        contextlib.closing(weights.shards) if weights is not None else contextlib.nullcontext(),
        Progress(part, len(part.sequences) - len(missing), quiet=settings.quiet) as progress,
        Sink(writer, plan, committed=progress.advance) as sink,
    ):
        if not missing:
            pass  # a worker that made the store meanwhile filled this part, too
        elif weights is None:
            capture_resident(model, plan, corpus.token_id, missing, sink, skeleton.dtype, device)
        elif plan.engine == "lockstep":
            capture_lockstep(weights, plan, corpus.token_id, missing, sink, skeleton.dtype, device)
        else:
            capture_streamed(weights, plan, corpus.token_id, missing, sink, checkpoints, skeleton.dtype, device)
    checkpoints.remove()
    writer.sweep()
    remove_drafts(store)
    return missing


@contextlib.contextmanager
def _full_device(plan: CapturePlan, device: torch.device) -> Iterator[None]:
    """Say what to do where the memory of ``device`` does not suffice: others may use it too."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        streams = "" if plan.engine != "resident" else "run the same command with --engine streamed or lockstep, or "
        raise CapacityError(
            f"the memory of {device} is full: about {human_bytes(plan.memory.needed)} were to be needed. What is "
            f"committed is safe; {streams}free memory there and run the same command, or start anew with a smaller "
            "--batch-size or --length"
        ) from error


def _weights(prepared: Prepared) -> tuple[LayerWeights | None, Any]:
    """(what loads one layer at a time, None), or (None, the whole model)."""
    snapshot, skeleton, device = prepared.snapshot, prepared.skeleton, prepared.devices[0]
    if prepared.plan.engine == "resident":
        free = {each: available_memory_bytes(each) for each in prepared.devices}
        return None, load_model(snapshot.folder, skeleton, device, placement(prepared.plan, free))
    if prepared.settings.evict:
        return EvictingWeights(snapshot, prepared.store, skeleton, device), None
    return LayerWeights(snapshot.folder, skeleton, device), None


def _quieten_transformers(settings: CaptureSettings) -> None:
    """Its notes (kernels that are not installed, MXFP4 that is dequantised) are known here, and no user's business."""
    transformers.utils.logging.set_verbosity_error()
    if settings.quiet or not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()


def _say(settings: CaptureSettings, line: str) -> None:
    if not settings.quiet:
        print(f"capture: {line}", file=sys.stderr, flush=True)


def _made_or_joined(store: Path, info: RunInfo, plan: CapturePlan, corpus: Corpus, codecs: Mapping[str, str]) -> Run:
    """The store as made now, or, where another worker was first, as it made it for the same run."""
    text, values = stored_token_text(corpus.token_text)
    contents: dict[str, npt.NDArray[Any]] = {
        "token_id": corpus.token_id,
        "token_mask": corpus.token_mask,
        text.name: values,
    }
    with contextlib.suppress(StoreExistsError):
        create_run(store, info, (*plan.arrays, text), contents)
    run = Run(store)
    _require_same(run, info)
    _require_arrays(run, plan)
    as_stored(plan.arrays, run, codecs)
    return run


def _opening_line(store: Path, plan: CapturePlan, part: Part, device: torch.device, done: int) -> str:
    d = plan.dimensions
    windows = windows_in_words(d) if part.is_whole else f"{part} sequences x {d.positions}"
    resumed = f", {done} of them there already" if done else ""
    return (
        f"{d.layers} layers x {len(plan.stored_sites)} sites, {windows}{resumed}, "
        f"{plan.encoding.name} on {device}, {plan.engine} engine ({plan.engine_reason}) -> {store}"
    )


def _corpus(text: TextSource, folder: Path, windows: WindowSettings, existing: Run | None) -> tuple[Corpus, CorpusInfo]:
    """The windows and their provenance.

    A dataset on the Hub is not streamed again for a store that already holds windows: the stored ids are used. Where
    others are asked for, the provenance says what is asked, which the store's signature then refuses.
    """
    tokenizer = load_tokenizer(folder)
    digest = tokenizer_digest(tokenizer)
    asked: dict[str, Any] = {
        "source": text.name,
        "config": text.config,
        "split": text.split if text.is_remote else None,
        "column": text.column if text.kind != "pydoc" else None,
        "text_sha256": text.sha256(),
        "sequences": windows.sequences,
        "length": windows.length,
        "overlap": f"{float(windows.overlap * 100):g}%",
        "bos": windows.bos,
        "shuffle_seed": windows.shuffle_seed,
        "tokenizer_sha256": digest,
    }
    if text.is_remote and existing is not None:
        held = existing.info.corpus
        corpus = Corpus(
            existing.read("token_id"),
            existing.read("token_mask"),
            held.bos_added,
            held.bos_token_id,
            held.end_of_text_token or "",
            held.end_of_text_token_id or 0,
            held.documents_read or 0,
            held.tokens_read or 0,
        )
        if corpus.token_sha256 == held.token_sha256:
            return corpus, held.model_copy(update=asked)
    text = pinned(text)
    corpus = read_corpus(text, tokenizer, windows)
    info = CorpusInfo(
        **asked,
        revision=text.revision,
        bos_added=corpus.bos_added,
        bos_token_id=corpus.bos_token_id,
        end_of_text_token=corpus.end_of_text_token,
        end_of_text_token_id=corpus.end_of_text_token_id,
        documents_read=corpus.documents_read,
        tokens_read=corpus.tokens_read,
        token_sha256=corpus.token_sha256,
    )
    return corpus, info


def _require_arrays(existing: Run, plan: CapturePlan) -> None:
    absent = [spec.name for spec in plan.arrays if spec.name not in existing]
    if absent:
        raise SignatureError(
            f"{existing.path} was made by outlier-features {existing.info.software.outlier_features}, which stored no "
            f"{', '.join(absent)}: finish it with that version, or give another --store, or --overwrite to replace it"
        )


def _require_same(existing: Run, wanted: RunInfo) -> None:
    # Format 1.0 had no retention: its stores hold whole slices.
    stored = {"retention": str(existing.retention), **existing.info.signature}
    changed = differences(stored, wanted.signature)
    if changed:
        listed = "\n".join(f"  {key}: {was!r} in the store, {now!r} now" for key, was, now in changed)
        raise SignatureError(
            f"{existing.path} was made with other settings:\n{listed}\n"
            f"Continue it with: {existing.finishing_command()}\n"
            "or give another --store, or --overwrite to replace it"
        )
