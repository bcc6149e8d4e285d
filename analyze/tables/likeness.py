"""What keeps runs from being compared like with like, in words: no row stands beside another without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from analyze.tables.table import Table
from schemas.layout import Dimensions
from schemas.provenance import RunInfo

__all__ = ["LookedAt", "comparison_notes", "precision_words", "said_of_each", "text_words", "with_likeness"]


class LookedAt(Protocol):
    """What was looked at of a run: a plan of its counts, or any other choice of it."""

    @property
    def sites(self) -> tuple[str, ...]: ...

    @property
    def sequences(self) -> tuple[int, ...]: ...

    @property
    def dimensions(self) -> Dimensions: ...


def precision_words(info: RunInfo) -> str:
    """The precision that the model computed in and, where it is another, the one that its hidden states are stored in.

    ``bfloat16``, or ``float32/bfloat16``.
    """
    computed, stored = info.model.compute_dtype, info.bits
    return computed if computed == stored else f"{computed}/{stored}"


def text_words(info: RunInfo) -> str:
    """The text of a run and how it became windows."""
    corpus = info.corpus
    parts = [corpus.source, corpus.config, corpus.split]
    words = " ".join(part for part in parts if part)
    if corpus.revision:
        words += f" at {corpus.revision[:12]}"
    return words if corpus.overlap in ("0%", "0") else f"{words}, windows overlapping by {corpus.overlap}"


def said_of_each(words: Sequence[str], names: Sequence[str]) -> str:
    """What is said of all of them, once; where it differs, those that it is said of before it.

    >>> said_of_each(["2", "3", "2"], ["a", "b", "c"]), said_of_each(["2", "2"], ["a", "b"])
    ('a, c: 2; b: 3', '2')
    """
    found: dict[str, list[str]] = {}
    for said, name in zip(words, names, strict=True):
        found.setdefault(said, []).append(name)
    return words[0] if len(found) == 1 else "; ".join(f"{', '.join(some)}: {said}" for said, some in found.items())


def with_likeness(
    tables: Sequence[Table], infos: Sequence[RunInfo], plans: Sequence[LookedAt], names: Sequence[str]
) -> list[Table]:
    """``tables`` with what keeps the runs that they are of from being compared like with like below the last."""
    told = comparison_notes(infos, plans, names)
    return [*tables[:-1], *(dataclasses.replace(one, notes=(*one.notes, *told)) for one in tables[-1:])]


def comparison_notes(infos: Sequence[RunInfo], plans: Sequence[LookedAt], names: Sequence[str]) -> list[str]:
    """A sentence for each thing that keeps these runs from being compared like with like; none where nothing does."""
    notes = []

    def differing(value: Callable[[RunInfo, LookedAt], object]) -> bool:
        return len({value(info, plan) for info, plan in zip(infos, plans, strict=True)}) > 1

    def each(words: Callable[[RunInfo, LookedAt], str]) -> str:
        return said_of_each([words(info, plan) for info, plan in zip(infos, plans, strict=True)], names)

    if differing(lambda info, _: _text_key(info)):
        notes.append(f"Not the same text: {each(lambda info, _: text_words(info))}.")
    if differing(lambda info, _: info.corpus.token_sha256):
        hashes = each(lambda info, _: info.corpus.token_sha256[:8])
        why = (
            "their tokenizers differ, so that neither positions nor perplexities per token can be held side by side"
            if differing(lambda info, _: info.corpus.tokenizer_sha256)
            else "their tokenizer is the same"
        )
        notes.append(f"Not the same tokens ({why}); token hash of {hashes}.")
    if differing(lambda _, plan: (len(plan.sequences), plan.dimensions.positions)):
        sizes = each(lambda _, plan: f"{len(plan.sequences)} x {plan.dimensions.positions:,}")
        notes.append(f"Not as many sequences or positions: {sizes}. A sum over sequences grows with them.")
    elif differing(lambda _, plan: plan.sequences):
        notes.append("Not the same sequences were analysed: a store is partial.")
    if differing(lambda _, plan: plan.sites):
        notes.append(f"Not the same sites: {each(lambda _, plan: ', '.join(plan.sites))}.")
    if differing(lambda info, _: (info.model.compute_dtype, info.bits)):
        notes.append(f"Not the same precision (computed/stored): {each(lambda info, _: precision_words(info))}.")
    return notes


def _text_key(info: RunInfo) -> tuple[object, ...]:
    corpus = info.corpus
    return (
        *(corpus.source, corpus.config, corpus.split, corpus.column, corpus.revision, corpus.text_sha256),
        *(corpus.overlap, corpus.shuffle_seed),
    )
