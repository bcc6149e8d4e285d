"""What ``--info`` prints: a store as tables, and as one object for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from analyze.inventory.store import StoreInfo
from analyze.quantities import counted
from analyze.tables.columns import experts_words, parameters
from analyze.tables.likeness import precision_words, text_words
from analyze.tables.names import model_name
from analyze.tables.table import Field, Table, Value, shown
from schemas.provenance import SiteInfo

__all__ = ["info_tables"]


def info_tables(stores: Sequence[StoreInfo]) -> list[Table]:
    """Three of each store: its facts, what it can answer, its arrays."""
    return [table for store in stores for table in (_facts_table(store), _answers_table(store), _arrays_table(store))]


def size_text(amount: int | None) -> str:
    """Bytes as a person reads them, three figures, powers of ten.

    >>> size_text(1_716_000_000), size_text(999_999), size_text(62), size_text(None)
    ('1.72 GB', '1 MB', '62 bytes', '-')
    """
    if amount is None:
        return "-"
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        scaled = float(f"{amount / size:.3g}")
        if scaled >= 1:
            return f"{scaled:g} {unit}"
    return counted(amount, "byte")


def _ratio_text(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f}"


def _facts_table(store: StoreInfo) -> Table:
    return Table(
        "store",
        f"{store.path}: {_headline(store)}",
        (Field("fact", "", right=False), Field("value", "", right=False)),
        tuple(_facts(store)),
        tuple(_notes(store)),
        _about(store),
    )


def _headline(store: StoreInfo) -> str:
    corpus = store.run.corpus
    state = "complete" if store.finishing_command is None else f"{len(store.complete):,} of them complete"
    size = "" if store.stored_bytes is None else f", {size_text(store.stored_bytes)}"
    sequences = counted(corpus.sequences, "sequence")
    return f"{model_name(store.run)}, {sequences} of {counted(corpus.length, 'token')}, {state}{size}"


def _facts(store: StoreInfo) -> Iterator[tuple[Value, ...]]:
    run, model, software = store.run, store.run.model, store.run.software
    yield "Model", " ".join(word for word in (model.id, model.revision) if word)
    yield "Architecture", f"{model.architecture}: {model.layers:,} layers of {model.hidden_size:,} features"
    yield "Parameters", f"{parameters(model.total_parameters)}, {parameters(model.active_parameters)} active"
    if model.experts:
        experts = experts_words(model.experts, model.shared_experts)
        yield "Experts", f"{experts}, top {model.top_k}, {model.routing or 'routing unknown'}"
    quantised = f", checkpoint quantised: {model.quantisation}" if model.quantisation else ""
    yield "Precision", f"{precision_words(run)} (checkpoint {model.native_dtype}{quantised})"
    corpus = run.corpus
    yield "Text", text_words(run)
    yield "Tokens", f"{corpus.sequences * corpus.length:,} ({corpus.sequences:,} x {corpus.length:,})"
    yield "Complete", _complete_words(store)
    yield (
        "Kept",
        {"slices": "all hidden states, and peaks", "peaks": "peaks alone"}.get(
            run.retention, f"hidden states of magnitude {run.retention.removeprefix('floor=')} and above, and peaks"
        ),
    )
    yield from ((f"Site {name}", _site_words(site)) for name, site in run.sites.items())
    yield "Raw", size_text(store.raw_bytes)
    yield "On disk", f"{size_text(store.stored_bytes)} (ratio {_ratio_text(store.ratio)})"
    yield "Perplexity", shown(None if store.perplexity.value is None else float(f"{store.perplexity.value:.4g}"))
    yield "Non-finite", "none" if not store.nonfinite else f"{counted(store.nonfinite, 'value')} NaN or infinite"
    yield "Captured", f"{run.created}, {software.engine} engine on {software.device_name or software.device}"
    yield (
        "Software",
        f"outlier-features {software.outlier_features}, transformers {software.transformers}, torch {software.torch}",
    )
    yield "Format", run.format_version


def _complete_words(store: StoreInfo) -> str:
    if store.finishing_command is None:
        return "yes"
    cells = f"{len(store.complete):,} of {counted(store.run.corpus.sequences, 'sequence')}"
    return f"{cells} ({store.cells:,} of {counted(store.cells_total, 'cell')})" + (
        ", being written now" if store.being_written else ""
    )


def _site_words(site: SiteInfo) -> str:
    if site.alias is not None:
        return f"the same tensor as {site.alias}"
    module = _pattern(site.modules)
    norm = site.norm
    if norm is None or norm.kind is None:
        return f"enters {module}" + (f"; no norm ({norm.reason})" if norm is not None and norm.reason else "")
    kind = {"rms": "RMSNorm", "layer": "LayerNorm"}[norm.kind]
    known = [name for name in norm.modules if name is not None]
    return f"enters {module}, from the {kind} {_pattern(known)}"


def _pattern(modules: Sequence[str]) -> str:
    """Modules of all layers as one name: ``model.layers.*.mlp``; of several kinds, all of those."""
    kinds = dict.fromkeys(".".join("*" if part.isdigit() else part for part in name.split(".")) for name in modules)
    return ", ".join(kinds) or "-"


def _notes(store: StoreInfo) -> Iterator[str]:
    if store.finishing_command is not None:
        yield f"Finish it: {store.finishing_command}"
    if store.stored_bytes is None:
        yield "Sizes: the server does not list the store's files."
    elif store.raw_bytes:
        yield "Raw, ratio: of the chunks that are there; the ratio is of all files, metadata too."


def _answers_table(store: StoreInfo) -> Table:
    unfinished = store.complete and store.finishing_command is not None
    partial = ("All with --partial, of the complete sequences; once it is finished, without.",) if unfinished else ()
    return Table(
        "answers",
        "What it can answer",
        (
            Field("question", "Question", right=False),
            Field("flags", "Flags", right=False),
            Field("possible", "", right=False),
            Field("words", "From, or why not", right=False),
        ),
        tuple((one.question, one.flags, one.possible, one.words) for one in store.answers),
        partial,
        about={"store": store.path},
    )


def _arrays_table(store: StoreInfo) -> Table:
    rows = tuple(
        (
            *(array.name, " ".join(array.dims), " x ".join(f"{size:,}" for size in array.shape), array.dtype),
            *(" x ".join(map(str, array.chunk)), array.codec, array.chunks, array.chunks_there),
            *(_there(array.chunks_there, array.chunks), array.raw_bytes, array.stored_bytes, array.ratio),
        )
        for array in store.arrays
    )
    return Table(
        "arrays",
        "Arrays",
        (
            Field("name", "Array", right=False),
            Field("dims", "Dimensions", right=False),
            Field("shape", "", hidden=True),
            Field("dtype", "Values", lambda text: text.partition(" in ")[0], right=False),
            Field("chunk", "", hidden=True),
            Field("codec", "", hidden=True),
            Field("chunks", "", hidden=True),
            Field("chunks_there", "", hidden=True),
            Field("chunks_words", "Chunks", programs=False),
            Field("raw_bytes", "Raw", size_text),
            Field("stored_bytes", "Stored", size_text),
            Field("ratio", "Ratio", _ratio_text),
        ),
        rows,
        about={"store": store.path},
    )


def _there(there: int | None, chunks: int) -> str:
    return f"{chunks:,}" if there is None or there == chunks else f"{there:,} of {chunks:,}"


def _about(store: StoreInfo) -> dict[str, Any]:
    """Everything as values: what a program reads instead of the rows of facts."""
    return {
        "store": store.path,
        "complete": store.finishing_command is None,
        "complete_sequences": list(store.complete),
        "cells": store.cells,
        "cells_total": store.cells_total,
        "being_written": store.being_written,
        "finishing_command": store.finishing_command,
        "raw_bytes": store.raw_bytes,
        "stored_bytes": store.stored_bytes,
        "ratio": store.ratio,
        "perplexity": store.perplexity.value,
        "nonfinite_values": store.nonfinite,
        "run": store.run.model_dump(mode="json"),
    }
