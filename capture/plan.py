"""What a capture will do, worked out before it starts: arrays, bytes, memory, and whether it fits.

Pure functions of the model's facts and the settings; ``--dry-run`` prints the plan, the engines follow it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from capture.compression import codecs_in_words
from capture.coupling import APART, Coupling
from capture.duration import Duration, duration
from capture.estimates import Memory, Workload, loss_block_positions, memory, store_bytes
from capture.experts import Routing
from capture.model_facts import ModelFacts
from capture.part import Part
from capture.processors import model_takes_all
from capture.resume import DRAFTS_AT_ONCE
from capture.sites import Site
from schemas.bits import Encoding
from schemas.errors import InputError
from schemas.layout import ArraySpec, Dimensions, plan_arrays
from schemas.retention import WHOLE, Retention

__all__ = [
    "CapturePlan",
    "choose_engine",
    "describe_plan",
    "human_bytes",
    "human_count",
    "make_plan",
    "routing_in_words",
    "shortfalls",
    "windows_in_words",
]


@dataclass(frozen=True)
class CapturePlan:
    """All that is decided before a capture starts."""

    facts: ModelFacts
    sites: tuple[Site, ...]
    dimensions: Dimensions
    encoding: Encoding
    batch_size: int
    arrays: tuple[ArraySpec, ...]
    coupling: Coupling = APART
    retention: Retention = WHOLE
    engine: str = "resident"
    engine_reason: str = ""
    routing: Routing | None = None
    datasets: bool = False
    """Whether the text is read with the datasets library."""
    accelerated: bool = False
    """Whether the model runs on an accelerator, with memory of its own."""
    part: Part | None = None
    """Sequences that this process fills; None: all."""

    @property
    def sequences(self) -> range:
        """Those that this process fills."""
        return self.part.sequences if self.part else range(self.dimensions.sequences)

    @property
    def stored_sites(self) -> list[str]:
        """Sites with arrays of their own."""
        return [site.name for site in self.sites if site.alias is None]

    @property
    def raw_bytes(self) -> int:
        """Bytes of all arrays before compression."""
        return sum(array.raw_bytes for array in self.arrays)

    @property
    def expected_bytes(self) -> int:
        """Bytes of the finished store as expected on disk; with a floor, the most that is expected."""
        return store_bytes(self.arrays)

    @property
    def certain_bytes(self) -> int:
        """Of the expected bytes, those that this process writes whatever the values: without slices with a floor."""
        whole = (array for array in self.arrays if self.retention.floor is None or array.name not in self.stored_sites)
        return store_bytes(whole) * len(self.sequences) // self.dimensions.sequences

    @property
    def resume_bytes(self) -> int:
        """Bytes beside the store while it is filled: what each batch goes on from, of some batches twice."""
        if self.engine != "streamed":
            return 0
        d, batches = self.dimensions, math.ceil(len(self.sequences) / self.batch_size)
        each = self.batch_size * d.positions * d.features * self.encoding.itemsize * (1 + len(self.stored_sites))
        return each * (batches + min(batches, 2 * DRAFTS_AT_ONCE))  # some wait for their commit, others for those

    @property
    def disk_bytes(self) -> int:
        """Bytes that the disk must have room for, whatever the values, while this process fills its part."""
        return self.certain_bytes + self.resume_bytes

    @property
    def written_beside(self) -> bool:
        """Whether slices are written while the model runs; else while it waits, so as not to take its processors."""
        return self.accelerated or not model_takes_all()

    @property
    def loss_block_positions(self) -> int:
        """Positions whose logits are computed at once."""
        return loss_block_positions(self.batch_size, self.dimensions.positions, self.facts.vocabulary_size)

    @property
    def workload(self) -> Workload:
        """What decides how much memory and time it takes."""
        return Workload(
            self.facts,
            self.engine,
            self.dimensions,
            self.encoding,
            self.batch_size,
            len(self.sequences),
            len(self.stored_sites),
            self.coupling.argument_bytes,
            self.datasets,
            self.retention.slices,
            "AVX512" in torch.backends.cpu.get_cpu_capability(),
            self.accelerated,
            self.written_beside,
        )

    @property
    def memory(self) -> Memory:
        """What the engine needs at its peak."""
        return memory(self.workload)

    def duration(self, matmul_flops: float) -> Duration:
        """How long it takes on a device that does so many operations a second in matrix products."""
        raw = self.raw_bytes * len(self.sequences) // self.dimensions.sequences
        return duration(self.workload, raw, matmul_flops)


def choose_engine(
    plan: CapturePlan, requested: str, available_bytes: int | None, *, evict: bool = False
) -> CapturePlan:
    """``plan`` with its engine and the reason for it: what was ``requested``, or for ``auto`` the first that fits.

    Engines differ in memory and speed, never in the numbers. Raises InputError for one that cannot run this model, or
    that needs its checkpoint whole where shards only pass by (``evict``).
    """
    if evict and requested == "resident":
        raise InputError("--engine resident: --evict goes with those that read one layer at a time; use --engine auto")
    if requested == "streamed" and plan.coupling.reason is not None:
        raise InputError(
            f"--engine streamed: {plan.coupling.reason}; use --engine lockstep, which needs as little for weights"
        )
    if requested != "auto":
        return replace(plan, engine=requested, engine_reason="as asked")
    resident = replace(plan, engine="resident", engine_reason="the whole model fits in memory")
    if evict:
        reason = "--evict keeps few shards at a time"
    elif available_bytes is None or resident.memory.needed <= available_bytes:
        return resident
    else:
        need, have = human_bytes(resident.memory.needed), human_bytes(available_bytes)
        reason = f"the whole model needs {need}, {have} is available"
    if plan.coupling.reason is not None:
        return replace(plan, engine="lockstep", engine_reason=f"{reason}, and {plan.coupling.reason}")
    return replace(plan, engine="streamed", engine_reason=reason)


def make_plan(
    facts: ModelFacts,
    sites: Sequence[Site],
    encoding: Encoding,
    *,
    part: Part,
    length: int,
    batch_size: int,
    coupling: Coupling = APART,
    routing: Routing | None = None,
    retention: Retention = WHOLE,
    codecs: Mapping[str, str] | None = None,
    datasets: bool = False,
    accelerated: bool = False,
) -> CapturePlan:
    """The plan of a capture; ``routing`` is None for a dense model.

    Raises InputError where the settings contradict the model or each other.
    """
    for flag, value in (("--length", length), ("--batch-size", batch_size)):
        if value < 1:
            raise InputError(f"{flag} {value}: must be at least 1")
    if facts.max_positions is not None and length > facts.max_positions:
        raise InputError(
            f"--length {length} is longer than the {facts.max_positions} positions that {facts.architecture} was made "
            f"for; use --length {facts.max_positions} or less"
        )
    batch_size = min(batch_size, part.whole)
    part.require_whole_batches(batch_size)
    ranks = routing.top_k if routing else 0
    experts = routing.experts if routing and routing.peak_absent is None else 0
    dimensions = Dimensions(facts.layers, part.whole, length, facts.hidden_size, ranks, experts)
    stored = [site.name for site in sites if site.alias is None]
    norms = {site.name: site.norm for site in sites if site.norm is not None}
    arrays = plan_arrays(dimensions, stored, encoding, norms=norms, slices=retention.slices, codecs=codecs)
    return CapturePlan(
        facts,
        tuple(sites),
        dimensions,
        encoding,
        batch_size,
        arrays,
        coupling,
        retention,
        routing=routing,
        datasets=datasets,
        accelerated=accelerated,
        part=part,
    )


def windows_in_words(dimensions: Dimensions) -> str:
    """``16 sequences x 2048``."""
    return f"{dimensions.sequences} sequence{'s' * (dimensions.sequences != 1)} x {dimensions.positions}"


def routing_in_words(routing: Routing) -> str:
    """``8 of 128 experts a token in 48 of 48 layers``, or what of it is not stored, and why."""
    if routing.absent is not None:
        return f"not stored: {routing.absent}"
    layers = f"{routing.layers} of {len(routing.modules)} layers"
    peaks = f"; no expert_peak: {routing.peak_absent}" if routing.peak_absent else ""
    return f"{routing.top_k} of {routing.experts} experts a token in {layers}{peaks}"


def human_bytes(count: float) -> str:
    """``1.5 GB``: bytes in decimal units, three significant digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def human_count(count: int) -> str:
    """``30.5B``: a parameter count in the units that papers use."""
    scaled = float(count)
    for unit in ("", "k", "M", "B", "T"):
        if scaled < 999.5 or unit == "T":
            return f"{scaled:.3g}{unit}"
        scaled /= 1000
    raise AssertionError("unreachable")


def describe_plan(
    plan: CapturePlan,
    *,
    model: str,
    store: str,
    device: str,
    available_bytes: int | None,
    disk_free_bytes: int,
    download: str | None = None,
    time: str | None = None,
    advice: str | None = None,
) -> str:
    """The plan as lines of text, for ``--dry-run``; ``download`` says what is still to come from the Hub,
    ``time`` how long it takes, ``advice`` what would be faster."""
    facts, d = plan.facts, plan.dimensions
    sites = ", ".join(f"{s.name} (same tensor as {s.alias})" if s.alias else s.name for s in plan.sites)
    experts = ""
    if facts.experts:
        shared = f" + {facts.shared_experts} shared" if facts.shared_experts else ""
        experts = f"; {facts.experts}{shared} experts, {facts.top_k} a token ({facts.routing})"
    work = human_bytes(plan.memory.work + plan.memory.waiting)
    host = f"; the host about {human_bytes(plan.memory.host)}" if plan.memory.host else ""
    mapped = f", pages of the checkpoint {human_bytes(plan.memory.mapped)} (not needed)" if plan.memory.mapped else ""
    available = "unknown" if available_bytes is None else human_bytes(available_bytes)
    part = plan.part if plan.part and not plan.part.is_whole else None
    most = "about" if plan.retention.floor is None else "at most about"
    beside = f"; {human_bytes(plan.resume_bytes)} more while it is filled" if plan.resume_bytes else ""
    rows = [
        ("model", f"{model}: {facts.architecture}, {facts.layers} layers, hidden size {facts.hidden_size}{experts}"),
        ("parameters", f"{human_count(facts.total_parameters)}, {human_count(facts.active_parameters)} active a token"),
        ("dtype", f"{plan.encoding.name} (checkpoint: {facts.quantisation or facts.native_dtype})"),
        ("sites", sites),
        *((f"  {site.name}", f"{_module_pattern(site)}{_norm_in_words(site)}") for site in plan.sites),
        *([("routing", routing_in_words(plan.routing))] if plan.routing else []),
        ("tokens", f"{windows_in_words(d)} = {d.sequences * d.positions:,}"),
        *([("part", f"{part}: {len(plan.sequences) * d.positions:,} tokens")] if part else []),
        ("engine", f"{plan.engine}: {plan.engine_reason}"),
        ("batches", f"{math.ceil(len(plan.sequences) / plan.batch_size)} of {plan.batch_size}"),
        ("keep", _retention_in_words(plan.retention)),
        ("store", f"{store}: {human_bytes(plan.raw_bytes)} raw, {most} {human_bytes(plan.expected_bytes)} compressed, "
                  f"{sum(array.chunk_count for array in plan.arrays):,} chunks{beside}"),
        ("codec", codecs_in_words(plan.arrays)),
        ("disk", f"{human_bytes(disk_free_bytes)} free"),
        *([("download", download)] if download else []),
        ("memory", f"about {human_bytes(plan.memory.total)} on {device} ({available} available): "
                   f"weights {human_bytes(plan.memory.weights)}, work {work}{mapped}{host}"),
        *([("time", time)] if time else []),
        *([("advice", advice)] if advice else []),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _retention_in_words(retention: Retention) -> str:
    if retention.floor is not None:
        return f"slices, values below {retention.floor} zeroed (their size depends on how many are not); exact peaks"
    return "slices whole, and peaks" if retention.slices else "exact peaks alone, no slices"


def _module_pattern(site: Site) -> str:
    """Module paths with the layer number starred: ``model.layers.*.mlp``, several where layers differ."""
    counts: dict[str, int] = {}
    for path in site.modules:
        head, child = path.rsplit(".", 1)
        pattern = f"{head}.*" if child.isdecimal() else f"{head.rsplit('.', 1)[0]}.*.{child}"
        counts[pattern] = counts.get(pattern, 0) + 1
    return ", ".join(f"{pattern} ({count} layer{'s' * (count != 1)})" for pattern, count in counts.items())


def _norm_in_words(site: Site) -> str:
    """``, fed by input_layernorm (rms norm, eps 1e-06, gain 1 + weight)``, or why no norm is known to feed it."""
    if site.norm is None:
        return ""
    if site.norm.kind is None:
        return f"; no norm: {site.norm.reason}"
    names = ", ".join(dict.fromkeys(path.rsplit(".", 1)[-1] for path in site.norm.modules if path))
    gain = f", gain {'1 + ' * site.norm.one_plus}{site.norm.gain}" if site.norm.gain else ""
    bias = f", bias {site.norm.bias}" if site.norm.bias else ""
    return f", fed by {names} ({site.norm.kind} norm, eps {site.norm.eps:g}{gain}{bias})"


def shortfalls(plan: CapturePlan, available_bytes: int | None, disk_free_bytes: int) -> list[str]:
    """Why the capture cannot fit, one sentence each; empty where it can."""
    reasons = []
    if available_bytes is not None and plan.memory.needed > available_bytes:
        need, have = human_bytes(plan.memory.needed), human_bytes(available_bytes)
        reasons.append(
            f"the {plan.engine} engine needs about {need} of memory and {have} is available: use a smaller model, a "
            "smaller --batch-size or --length, or a larger machine"
        )
    if plan.disk_bytes > disk_free_bytes:
        less = "--keep floor=M or --keep peaks, " if plan.retention == WHOLE else ""
        reasons.append(
            f"the store needs about {human_bytes(plan.disk_bytes)} of disk and {human_bytes(disk_free_bytes)} is "
            f"free: use fewer --sequences, {less}one of --sites, or another --store"
        )
    return reasons
