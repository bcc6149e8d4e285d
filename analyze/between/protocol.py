"""How a published row and a run's answer were made, aspect by aspect, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analyze.between.published import PublishedRow
from analyze.quantities import counted, decimal_text
from analyze.tables.likeness import precision_words, text_words
from analyze.tables.wording import definition_words, shares_words
from analyze.thresholds.plan import Plan
from schemas.provenance import RunInfo

__all__ = ["Aspect", "protocol_aspects"]


@dataclass(frozen=True)
class Aspect:
    """One aspect of a protocol: as published, as here, and whether they are the same; None where that is not known."""

    name: str
    published: str
    here: str
    same: Literal["yes", "no", "not known"]


def protocol_aspects(row: PublishedRow, info: RunInfo, plan: Plan) -> tuple[Aspect, ...]:
    """Text, tokens, sequence length, sites, precision and counting of a published row and of a run's answer."""
    protocol, question = row.protocol, plan.question
    tokens = f"{counted(len(plan.sequences), 'sequence')}, token hash {info.corpus.token_sha256[:8]}"
    tokens += f", beginning-of-text token {info.corpus.bos}"
    asked = ", ".join(decimal_text(magnitude) for magnitude in question.magnitudes[:3])
    counting = definition_words(plan, asked if len(question.magnitudes) <= 3 else "the magnitude")
    standard = [decimal_text(m) for m in question.magnitudes] == ["6"] and (
        question.layers.value * 100 == 25 and question.positions.value * 100 == 6
    )
    as_published = question.definition.preset == protocol.definition and standard
    as_published &= protocol.sequences in (None, len(plan.sequences))
    as_published &= not question.altered and not plan.needs_slices
    if row.precision is None:
        same_precision = None
    else:
        plain = not row.precision.startswith("MXFP4")
        same_precision = (precision_words(info) == "bfloat16") if plain else None
    text_here = text_words(info)
    same_text: bool | None = None
    if protocol.length is not None:  # the published text is known
        same_text = None if "fineweb-edu" in text_here.lower() and info.corpus.overlap == "50%" else False
    length = plan.dimensions.positions
    return (
        Aspect("text", protocol.text, text_here, _same(same_text)),
        Aspect("tokens", protocol.tokens, tokens, _same(None if same_text is not False else False)),
        Aspect(
            "sequence length",
            "not said" if protocol.length is None else f"{protocol.length:,}, before encoding again",
            f"{length:,}",
            _same(None if protocol.length in (None, length) else False),
        ),
        Aspect(
            "sites",
            protocol.sites_words,
            f"{', '.join(plan.sites)}, each {question.definition.layer_unit} a layer",
            _same(
                False
                if set(plan.sites) != set(protocol.sites)
                else None
                if protocol.length is None
                else question.definition.layer_unit == "cell"
            ),
        ),
        Aspect(
            "precision",
            protocol.precision if row.precision is None else f"{row.precision}; {protocol.precision}",
            _computed_words(info),
            _same(same_precision),
        ),
        Aspect(
            "counting",
            protocol.counting,
            f"{counting}: {shares_words(plan)}",
            _same(as_published if protocol.length is not None else None if as_published else False),
        ),
    )


def _same(known: bool | None) -> Literal["yes", "no", "not known"]:
    return "not known" if known is None else "yes" if known else "no"


def _computed_words(info: RunInfo) -> str:
    model = info.model
    words = f"computed in {model.compute_dtype}, stored as {info.bits}"
    if model.native_dtype != model.compute_dtype:
        words += f", checkpoint {model.native_dtype}"
    return words if model.quantisation is None else f"{words}, weights from {model.quantisation}"
