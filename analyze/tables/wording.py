"""Definitions in words, with the counts that a store makes of their shares: no number is shown without them."""

from __future__ import annotations

from collections.abc import Sequence

from analyze.quantities import counted, decimal_text
from analyze.tables.likeness import comparison_notes, said_of_each
from analyze.tables.names import compared, label, store_names
from analyze.thresholds.definitions import ONE_HIT
from analyze.thresholds.plan import Plan
from analyze.thresholds.results import Result

__all__ = [
    "AS_WITHOUT_HITS",
    "NOT_LOOKED_AT",
    "answered_words",
    "definition_notes",
    "definition_words",
    "notes",
    "shares_words",
    "unit_words",
    "words_of_all",
]

_OF_ALL = "shares of layers and positions are of all cells, these too"
AS_WITHOUT_HITS = f"as if without hits: {_OF_ALL}"
"""What a cell that is skipped as damaged means for a count: never more outliers than there are."""
NOT_LOOKED_AT = "not looked at: shares and means are of the values and tokens that could be read"
"""What it means for a table of where values are, or of a number of each cell."""
_LOOKED_AT = "; looked at: "


def definition_words(plan: Plan, magnitude: str) -> str:
    """What is counted, in one sentence, at ``magnitude`` ("6", or "the row's magnitude")."""
    definition = plan.question.definition
    rule = f"{_rule_words(plan, magnitude)}{_part_words(plan)}"
    if definition.scope == "pooled":
        return f"a feature counts once if {rule}"
    if definition.sequence_share is not None:
        share = "half" if definition.sequence_share * 2 == 1 else str(definition.sequence_share)
        return f"a feature counts once if, in at least {share} of the sequences, {rule}"
    return f"a feature counts in each sequence where {rule}"


def _rule_words(plan: Plan, magnitude: str) -> str:
    """The rule of one scope."""
    question = plan.question
    definition = question.definition
    block, pooled = definition.layer_unit == "block", definition.scope == "pooled"
    unit = "blocks (a block is hit if any of its sites is)" if block else "cells"
    value = "|X / gain|" if question.in_gain_units else "|X|"
    minimum = definition.minimum_hits
    often = ""
    if minimum.share is not None:
        often = f" at {minimum.text} or more of the positions each"
    elif minimum.count > 1:
        often = f" at {minimum.count:,} or more positions each"
    places = "all tokens pooled" if pooled else "the sequence's positions"
    where = {
        "union": f"and, over all of them, at {question.positions.text} or more of {places}",
        "mean": f"and, as the mean over those {'blocks' if block else 'cells'}, at {question.positions.text} or more "
        f"of {places}",
        "density": f"and at {question.positions.text} or more of all (cell, position) pairs, over "
        f"{'all tokens pooled' if pooled else 'the sequence'}",
    }[definition.position_coverage]
    return f"{value} >= {magnitude}{often} in at least {question.layers.text} of the {unit} {where}"


def _part_words(plan: Plan) -> str:
    """Which layers and positions are looked at, where it is not all of them."""
    question, d = plan.question, plan.dimensions
    parts = []
    if question.layers_range is not None:
        parts.append(f"layers {question.layers_range.text} alone ({len(plan.chosen.layers):,} of {d.layers:,})")
    if question.positions_range is not None:
        number = plan.chosen.stop - plan.chosen.start
        parts.append(f"positions {question.positions_range.text} alone ({number:,} of {d.positions:,})")
    if question.tokens != "all":
        parts.append(f"tokens of class {question.tokens} alone")
    return f"{_LOOKED_AT}{', '.join(parts)}" if parts else ""


def words_of_all(words: Sequence[str], names: Sequence[str]) -> str:
    """The words of several runs as one text: a rule that is the same said once, and of each run what differs."""
    rules, parts = zip(*(one.partition(_LOOKED_AT)[::2] for one in words), strict=True)
    if len(set(rules)) > 1 or not all(parts):
        return said_of_each(words, names)
    return f"{rules[0]}{_LOOKED_AT}{said_of_each(parts, names)}"


def definition_notes(
    definition: str, altered: Sequence[str], words: str, shares: Sequence[str], answered: str, names: Sequence[str]
) -> list[str]:
    """Lines that any table of a definition has: what counts, what its shares come to in each run, and the route."""
    with_flags = f" with {', '.join(altered)}" if altered else ""
    same = len(set(shares)) == 1
    here = [f"Here: {shares[0]}."] if same else [f"{name}: {said}." for name, said in zip(names, shares, strict=True)]
    return [f"Definition {definition}{with_flags}: {words}.", *here, f"Answered from {answered}."]


def shares_words(plan: Plan) -> str:
    """What the shares come to in this store."""
    sites = ", ".join(plan.sites)
    block = plan.question.definition.layer_unit == "block"
    layers = (
        f"{counted(plan.layers_total, 'block')} ({sites})"
        if block
        else f"{counted(plan.layers_total, 'cell')} ({counted(len(plan.chosen.layers), 'layer')} x {sites})"
    )
    pooled = plan.question.definition.scope == "pooled"
    positions = counted(plan.positions_total, "token" if pooled else "position")
    needed = plan.question.positions.text if plan.positions_at_least is None else f"{plan.positions_at_least:,}"
    if plan.uneven and not pooled:
        positions = f"{min(plan.positions_of):,} to {positions}"
    words = f"{plan.layers_needed:,} of {layers}, {needed} of {positions}"
    if plan.question.definition.minimum_hits != ONE_HIT:
        words += f", {plan.minimum_hits:,} or more hits in each layer counted"
    if plan.sequences_needed is not None:
        words += f", {plan.sequences_needed:,} of {_sequences(plan)}"
    return words if plan.sequences_needed is not None else f"{words}, {_sequences(plan)}"


def _sequences(plan: Plan) -> str:
    analysed = len(plan.sequences)
    if plan.partial:
        whole = counted(plan.dimensions.sequences, "sequence")
        return f"the {counted(analysed, 'complete one')} of {whole} (the store is partial)"
    return counted(analysed, "sequence")


def _coverage_words(plan: Plan) -> str:
    """What S% is the share of."""
    return {
        "union": "positions hit",
        "mean": "positions hit in an affected layer (the mean over those)",
        "density": "(cell, position) pairs hit",
    }[plan.question.definition.position_coverage]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def unit_words(plans: Sequence[Plan]) -> str:
    """What the column of outliers adds up, for a table of these plans, which share a definition."""
    if plans[0].question.definition.unit == "feature":
        return "features, each counted once"
    analysed = sorted({len(plan.sequences) for plan in plans})
    sizes = f"{analysed[0]:,}" if len(analysed) == 1 else f"{analysed[0]:,} to {analysed[-1]:,}"
    sequences = "1 sequence" if analysed == [1] else f"{sizes} sequences"
    return f"(sequence, feature) pairs summed over {sequences}; the same feature can count in each of them"


def answered_words(plan: Plan) -> str:
    """Which arrays of the store the answer came from, and what took the slices where the peaks could not answer."""
    flags = plan.needs_slices
    takes = f", which {' and '.join(flags)} {'takes' if len(flags) == 1 else 'take'}" if flags else ""
    return {
        "peaks": "the stored peaks",
        "slices": f"the slices{takes}",
        "peaks+slices": "the stored peaks, details from the slices",
    }[plan.answered_from]


def notes(results: Sequence[Result]) -> list[str]:
    """The lines below a table of ``results``: definition, unit, the counts behind the shares, sources, warnings."""
    plans = list({result.store: result.plan for result in results}.values())
    stores = store_names(results)
    names = list({result.store: label(result, stores) for result in results}.values())
    definition = plans[0].question.definition
    magnitudes = {result.magnitude for result in results}
    magnitude = decimal_text(results[0].magnitude) if len(magnitudes) == 1 else "the row's magnitude"
    told, *here, answered = definition_notes(
        definition.preset,
        plans[0].question.altered,
        words_of_all([definition_words(plan, magnitude) for plan in plans], names),
        [shares_words(plan) for plan in plans],
        said_of_each([answered_words(plan) for plan in plans], names),
        names,
    )
    lines = [f"Outliers: {unit_words(plans)}. Unique features: distinct ones among them.", told, *here]
    per_sequence = "blocks as layers, " if definition.layer_unit == "block" else ""
    lines.append(
        f"Per sequence: features that meet the rule in one sequence alone ({per_sequence}mean, and bootstrap 95% "
        f"interval over sequences). Mean L%, S%: share of layers and of {_coverage_words(plans[0])}, mean over what is "
        "counted."
    )
    if plans[0].by_count:
        lines.append("Each magnitude is answered by counts of its own hits, so there are no critical magnitudes.")
    if plans[0].question.in_gain_units:
        lines.append(
            "Magnitudes and peaks are in units of gain: of values divided by the gain of the norm before them."
        )
    if results[0].detail is not None:
        lines.append(
            "Hits, ties (hits equal to the magnitude) and one-sided (all hits of one sign): of the counted units. Most "
            "common feature: the counted one with most hits in all analysed sequences, and the quartiles of those hits."
        )
    lines.append(answered)
    for plan, name in zip(plans, names, strict=True):
        if plan.left_out:
            left = ", ".join(plan.left_out)
            lines.append(f"{name}: {left}, stored too, is not among these cells; --sites {left} looks at it.")
    for result in {result.store: result for result in results}.values():
        if result.nonfinite:
            lines.append(
                f"{label(result, stores)}: {counted(result.nonfinite, 'value')} {_are(result.nonfinite)} NaN or "
                "infinite; NaN is never a hit, an infinity always is."
            )
        if result.excluded:
            more = "; and others" if len(result.excluded) > 8 else ""
            lines.append(
                f"{label(result, stores)}: {counted(len(result.excluded), 'cell')} could not be read and "
                f"{'was' if len(result.excluded) == 1 else 'were'} skipped, as if without hits: "
                f"{'; '.join(result.excluded[:8])}{more}. {_OF_ALL.capitalize()}."
            )
        found = result.perplexity
        if found.unread:
            lines.append(f"{label(result, stores)}: perplexity left out: {found.unread}.")
        if found.nonfinite_losses:
            lines.append(
                f"{label(result, stores)}: perplexity none: {found.nonfinite_losses:,} of "
                f"{counted(found.losses, 'loss')} {_are(found.nonfinite_losses)} NaN or infinite."
            )
    return lines + comparison_notes(*compared(results))
