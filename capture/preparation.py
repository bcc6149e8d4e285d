"""What is settled before anything is computed or written: the model found and built without weights, and the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from capture.batching import with_largest_batch
from capture.checkpoint import find_model
from capture.compression import as_stored, parse_codecs
from capture.corpus import Bos, WindowSettings, parse_overlap
from capture.coupling import coupling_of
from capture.destination import Destination
from capture.device import available_memory_bytes, choose_device, devices_of
from capture.download import Download, find_download
from capture.experts import find_routing
from capture.model_facts import Skeleton, build_skeleton
from capture.norms import with_norms
from capture.part import DEFAULT_SEQUENCES, Part, parse_part
from capture.plan import CapturePlan, choose_engine, describe_plan, make_plan, shortfalls
from capture.presets import PRESETS
from capture.sites import Site, find_sites
from capture.snapshot import Snapshot, find_snapshot
from capture.speed import matmul_flops, slower_than_float32
from capture.text import TextSource, parse_text
from capture.weights.converter import Converter
from capture.weights.recipes import Recipes
from capture.weights.shards import Shards
from schemas.bits import encoding_named
from schemas.errors import InputError
from schemas.retention import parse_retention
from schemas.run import Run

__all__ = ["CaptureSettings", "Prepared", "missing_sequences", "prepare"]


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
    batch_size: int | Literal["auto"] | None = None
    engine: str = "auto"
    keep: str = "slices"
    codec: str | None = None
    sites: tuple[str, ...] | None = None
    seed: int | None = None
    overwrite: bool = False
    evict: bool = False
    dry_run: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Prepared:
    """A capture that is planned: where it comes from, where it goes, and what it takes."""

    settings: CaptureSettings
    text: TextSource
    windows: WindowSettings
    snapshot: Snapshot
    skeleton: Skeleton
    destination: Destination
    part: Part
    plan: CapturePlan
    codecs: Mapping[str, str]
    """Those that ``--codec`` names."""
    devices: Sequence[torch.device]
    """Those that a whole model may be spread over; the first runs all else."""
    available_bytes: int | None
    disk_free_bytes: int
    download: Download | None

    @property
    def store(self) -> Path:
        """Where the store is, or will be."""
        return self.destination.path

    @property
    def existing(self) -> Run | None:
        """The store that is continued."""
        return self.destination.run

    @property
    def missing(self) -> list[int]:
        """Sequences of the part that are still to be captured."""
        return missing_sequences(self.existing, self.part)

    def description(self) -> str:
        """What ``--dry-run`` prints."""
        return describe_plan(
            self.plan,
            model=self.settings.model,
            store=str(self.store),
            device=str(self.devices[0]),
            available_bytes=self.available_bytes,
            disk_free_bytes=self.disk_free_bytes,
            download=None if self.download is None else str(self.download),
            time=str(self.plan.duration(matmul_flops(self.devices[0], self.skeleton.dtype))),
            advice=self.advice(),
        )

    def advice(self) -> str | None:
        """What would be faster on this machine; None where nothing is known to be."""
        dtype = self.skeleton.dtype
        ratio = slower_than_float32(self.devices[0], dtype)
        if ratio is None:
            return None
        name = str(dtype).removeprefix("torch.")
        return (
            f"this CPU computes {name} {ratio:.0f} times slower than float32: --dtype float32 is faster, of twice the "
            "size, and its numbers are those of float32"
        )

    def require_weights(self) -> None:
        """Raise InputError where the checkpoint does not fill the model, as the headers of its files tell.

        For ``--dry-run``: what loads weights asks the same. Of weights that are still to come nothing is asked.
        """
        snapshot = self.snapshot
        if not self.missing:
            return
        if snapshot.unreachable is not None:
            snapshot.fetch()
        if snapshot.revision is None or not snapshot.missing:
            Recipes(Converter(self.skeleton), Shards.in_folder(snapshot.folder)).require_complete(snapshot.folder)

    def shortfalls(self) -> list[str]:
        """Why it cannot fit, one sentence each; empty where it can, or where nothing is left to do."""
        if not self.missing:
            return []
        reasons = shortfalls(self.plan, self.available_bytes, self.disk_free_bytes)
        if self.download is not None and (reason := self.download.shortfall(self.plan.disk_bytes)):
            reasons.append(reason)
        return reasons


def prepare(settings: CaptureSettings) -> Prepared:
    """Find the model and the store, build the model without weights, and plan; nothing is written.

    Raises an error of ``schemas.errors`` for settings that contradict the model, the store or each other.
    """
    text = parse_text(settings.text)
    overlap = parse_overlap(settings.overlap)
    retention = parse_retention(settings.keep)
    source = find_model(settings.model)
    device = choose_device(settings.device)
    destination = Destination(
        source.default_store if settings.store is None else settings.store, overwrite=settings.overwrite
    )
    existing = destination.run
    part = parse_part(settings.sequences, existing.info.corpus.sequences if existing else None)
    held = existing.info.model if existing else None
    snapshot = find_snapshot(source, settings.revision, held.revision if held and held.id == source.id else None)
    if settings.evict and snapshot.revision is None:
        raise InputError(f"--evict: --model {settings.model} is a local checkpoint, of which nothing is removed")
    preset_dtype = PRESETS[source.preset].dtype if source.preset else None
    dtype = preset_dtype or "auto" if settings.dtype == "auto" else settings.dtype
    skeleton = build_skeleton(snapshot.folder, dtype)
    batch_size = settings.batch_size
    grows = batch_size == "auto" and existing is None
    if batch_size is None or batch_size == "auto":
        # Resuming keeps the batch size, which may decide the last bit of a sum.
        batch_size = existing.info.software.batch_size if existing else 1
    sites = with_norms(skeleton.model, find_sites(skeleton.model, settings.sites))
    if existing is not None:
        sites = _as_begun(sites, existing)
    codecs = parse_codecs(settings.codec, [site.name for site in sites if site.alias is None and retention.slices])
    plan = make_plan(
        skeleton.facts,
        sites,
        encoding_named(str(skeleton.dtype).removeprefix("torch.")),
        part=part,
        length=settings.length,
        batch_size=batch_size,
        coupling=coupling_of(skeleton.model, settings.length),
        routing=find_routing(skeleton.model) if skeleton.facts.experts else None,
        retention=retention,
        codecs=codecs,
        datasets=text.is_remote,
        accelerated=device.type != "cpu",
    )
    if existing is not None:
        plan = replace(plan, arrays=as_stored(plan.arrays, existing, codecs))
    devices = devices_of(device)
    available = available_memory_bytes(*devices)
    plan = choose_engine(plan, settings.engine, available, evict=settings.evict)
    if plan.engine != "resident":  # only a whole model is spread
        available = available_memory_bytes(devices[0])
    if grows:
        plan = with_largest_batch(plan, available)
    disk_free = destination.free_bytes(plan)
    download = find_download(snapshot, destination.path, disk_free, plan, evict=settings.evict)
    windows = WindowSettings(part.whole, settings.length, overlap, settings.bos, settings.seed)
    return Prepared(
        settings,
        text,
        windows,
        snapshot,
        skeleton,
        destination,
        part,
        plan,
        codecs,
        devices,
        available,
        disk_free,
        download,
    )


def missing_sequences(run: Run | None, part: Part) -> list[int]:
    """Sequences of ``part`` that ``run`` does not hold."""
    done = set(run.complete_sequences()) if run else set()
    return [sequence for sequence in part.sequences if sequence not in done]


def _as_begun(sites: Sequence[Site], existing: Run) -> tuple[Site, ...]:
    """``sites`` without norms where ``existing`` was begun by a version that did not look for them (format 1.0)."""
    begun = existing.info.sites
    return tuple(replace(s, norm=None) if s.name in begun and begun[s.name].norm is None else s for s in sites)
