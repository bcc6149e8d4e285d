"""What keeps runs from being compared like with like, in words: no row stands beside another without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analyze.thresholds.plan import Plan
from schemas.provenance import RunInfo

__all__ = ["comparison_notes", "precision_words", "text_words"]


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


def comparison_notes(infos: Sequence[RunInfo], plans: Sequence[Plan], names: Sequence[str]) -> list[str]:
    """A sentence for each thing that keeps these runs from being compared like with like; none where nothing does."""
    notes = []

    def differing(value: Callable[[RunInfo, Plan], object]) -> bool:
        return len({value(info, plan) for info, plan in zip(infos, plans, strict=True)}) > 1

    def each(words: Callable[[RunInfo, Plan], str]) -> str:
        found: dict[str, list[str]] = {}
        for info, plan, name in zip(infos, plans, names, strict=True):
            found.setdefault(words(info, plan), []).append(name)
        return "; ".join(f"{', '.join(some)}: {said}" for said, some in found.items())

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
