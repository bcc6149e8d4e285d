"""One capture from start to end: find the model, plan, cut the text, open or create the store, run, report."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from capture.checkpoint import find_model
from capture.compression import as_stored, parse_codecs
from capture.corpus import (
    Bos,
    Corpus,
    WindowSettings,
    load_tokenizer,
    parse_overlap,
    read_corpus,
    require_vocabulary,
    tokenizer_digest,
)
from capture.coupling import coupling_of
from capture.destination import Destination
from capture.device import available_memory_bytes, choose_device, devices_of
from capture.download import find_download
from capture.engines.lockstep import capture_lockstep
from capture.engines.resident import capture_resident, load_model, placement
from capture.engines.streamed import capture_streamed
from capture.experts import find_routing
from capture.layer_weights import LayerWeights
from capture.model_facts import build_skeleton
from capture.norms import with_norms
from capture.part import DEFAULT_SEQUENCES, Part, parse_part, whole_command
from capture.passing_shards import EvictingWeights, remove_shards
from capture.plan import (
    CapturePlan,
    choose_engine,
    describe_plan,
    make_plan,
    routing_in_words,
    shortfalls,
    windows_in_words,
)
from capture.presets import PRESETS
from capture.progress import Progress
from capture.record import describe_run
from capture.resume import LayerCheckpoints
from capture.sink import Sink
from capture.sites import Site, find_sites
from capture.snapshot import find_snapshot
from capture.summary import summarise
from capture.text import TextSource, parse_text, pinned
from schemas.bits import encoding_named
from schemas.create import create_run, remove_drafts
from schemas.errors import CapacityError, InputError, SignatureError, StoreExistsError
from schemas.provenance import CorpusInfo, RunInfo, differences
from schemas.retention import parse_retention
from schemas.run import Run, RunWriter

__all__ = ["CaptureSettings", "run_capture"]


@dataclass(frozen=True)
class CaptureSettings:
    """What the command line asked for; None where a flag was left to its default."""

    model: str
    command: tuple[str, ...]
    revision: str | None = None
    store: str | None = None
    text: str = "fineweb-edu"
    sequences: str = str(DEFAULT_SEQUENCES)
    length: int = 2048
    overlap: str = "0%"
    bos: Bos = "auto"
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int | None = None
    engine: str = "auto"
    keep: str = "slices"
    codec: str | None = None
    sites: tuple[str, ...] | None = None
    seed: int | None = None
    overwrite: bool = False
    evict: bool = False
    dry_run: bool = False
    quiet: bool = False


def run_capture(settings: CaptureSettings) -> int:
    """Capture as ``settings`` say and print what came of it; the exit status.

    Raises an error of ``schemas.errors`` where something stands in the way; the store is then resumable.
    """
    started = time.monotonic()
    _quieten_transformers(settings)
    text = parse_text(settings.text)
    overlap = parse_overlap(settings.overlap)
    retention = parse_retention(settings.keep)
    source = find_model(settings.model)
    device = choose_device(settings.device)
    destination = Destination(settings.store or source.default_store, overwrite=settings.overwrite)
    store, existing = destination.path, destination.run

    part = parse_part(settings.sequences, existing.info.corpus.sequences if existing else None)
    held = existing.info.model if existing else None
    snapshot = find_snapshot(source, settings.revision, held.revision if held and held.id == source.id else None)
    if settings.evict and snapshot.revision is None:
        raise InputError(f"--evict: --model {settings.model} is a local checkpoint, of which nothing is removed")
    folder = snapshot.folder
    preset_dtype = PRESETS[source.preset].dtype if source.preset else None
    dtype = preset_dtype or "auto" if settings.dtype == "auto" else settings.dtype
    skeleton = build_skeleton(folder, dtype)
    encoding = encoding_named(str(skeleton.dtype).removeprefix("torch."))
    batch_size = settings.batch_size
    if batch_size is None:  # resuming keeps the batch size, which may decide the last bit of a sum
        batch_size = existing.info.software.batch_size if existing else 1
    sites = with_norms(skeleton.model, find_sites(skeleton.model, settings.sites))
    if existing is not None:
        sites = _as_begun(sites, existing)
    codecs = parse_codecs(settings.codec, [site.name for site in sites if site.alias is None])
    plan = make_plan(
        skeleton.facts,
        sites,
        encoding,
        part=part,
        length=settings.length,
        batch_size=batch_size,
        coupling=coupling_of(skeleton.model, settings.length),
        routing=find_routing(skeleton.model) if skeleton.facts.experts else None,
        retention=retention,
        codecs=codecs,
        datasets=text.is_remote,
    )
    devices = devices_of(device)
    if existing is not None:
        plan = replace(plan, arrays=as_stored(plan.arrays, existing, codecs))
    available = available_memory_bytes(*devices)
    plan = choose_engine(plan, settings.engine, available, evict=settings.evict)
    if plan.engine != "resident":  # only a whole model is spread
        available = available_memory_bytes(devices[0])
    disk_free = destination.free_bytes
    download = find_download(snapshot, store, disk_free, plan, evict=settings.evict)
    if settings.dry_run:
        print(
            describe_plan(
                plan,
                model=settings.model,
                store=str(store),
                device=str(device),
                available_bytes=available,
                disk_free_bytes=disk_free,
                download=None if download is None else str(download),
            )
        )
    if existing is None or _missing(existing, part):
        reasons = shortfalls(plan, available, disk_free)
        if download is not None and (reason := download.shortfall(plan.certain_bytes)):
            reasons.append(reason)
        if reasons:
            raise CapacityError("; ".join(reasons))
    if settings.dry_run:
        return 0

    windows = WindowSettings(part.whole, settings.length, overlap, settings.bos, settings.seed)
    corpus, corpus_info = _corpus(text, folder, windows, existing)
    require_vocabulary(corpus, skeleton.facts.vocabulary_size, folder)
    if not settings.evict or snapshot.unreachable is not None:
        snapshot.fetch()
    info = describe_run(snapshot, plan, corpus_info, device, whole_command(settings.command, part))
    if existing is not None:
        _require_same(existing, info)
    missing = _missing(existing, part)
    if missing:
        if existing is not None:
            _require_arrays(existing, plan)
        _say(settings, _opening_line(store, plan, part, device, len(part.sequences) - len(missing)))
        if plan.routing is not None and (plan.routing.absent or plan.routing.peak_absent):
            _say(settings, f"routing: {routing_in_words(plan.routing)}")
        # Before the store is made or replaced: a checkpoint that cannot be loaded leaves everything as it was.
        weights: Any = None
        model = None
        if plan.engine == "resident":
            free = {each: available_memory_bytes(each) for each in devices}
            model = load_model(folder, skeleton, device, placement(plan, free))
        elif settings.evict:
            weights = EvictingWeights(snapshot, store, skeleton, device)
        else:
            weights = LayerWeights(folder, skeleton, device)
        if existing is None:
            destination.clear()
            missing = _missing(_made_or_joined(store, info, plan, corpus, codecs), part)
        writer = RunWriter(store)
        checkpoints = LayerCheckpoints(writer)
        with (
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
    else:
        what = store if part.is_whole else f"sequences {part} in {store}"
        _say(settings, f"{what} {'is' if part.is_whole else 'are'} complete already; nothing to compute")
    remove_shards(store)
    print(summarise(store, time.monotonic() - started, len(missing), part))
    return 0


def _quieten_transformers(settings: CaptureSettings) -> None:
    """Its notes (kernels that are not installed, MXFP4 that is dequantised) are known here, and no user's business."""
    transformers.utils.logging.set_verbosity_error()
    if settings.quiet or not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()


def _say(settings: CaptureSettings, line: str) -> None:
    if not settings.quiet:
        print(f"capture: {line}", file=sys.stderr, flush=True)


def _missing(run: Run | None, part: Part) -> list[int]:
    done = set(run.complete_sequences()) if run else set()
    return [sequence for sequence in part.sequences if sequence not in done]


def _made_or_joined(store: Path, info: RunInfo, plan: CapturePlan, corpus: Corpus, codecs: Mapping[str, str]) -> Run:
    """The store as made now, or, where another worker was first, as it made it for the same run."""
    with contextlib.suppress(StoreExistsError):
        create_run(store, info, plan.arrays, {"token_id": corpus.token_id, "token_mask": corpus.token_mask})
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

    A dataset on the Hub is not streamed again for a store that already holds its windows: the stored ids are used.
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
        if all(getattr(held, key) == value for key, value in asked.items()):
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
                return corpus, held
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


def _as_begun(sites: Sequence[Site], existing: Run) -> tuple[Site, ...]:
    """``sites`` without norms where ``existing`` was begun by a version that did not look for them (format 1.0)."""
    begun = existing.info.sites
    return tuple(replace(s, norm=None) if s.name in begun and begun[s.name].norm is None else s for s in sites)


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
            f"Continue it with: {shlex.join(existing.info.command)}\n"
            "or give another --store, or --overwrite to replace it"
        )
