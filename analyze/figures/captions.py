"""What is said below a figure: what is seen, what was counted and where, in the words of ``analyze.tables.wording``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analyze.figures.view import Drawn, View
from analyze.overviews.results import Overview, StoreFacts, StoreView
from analyze.quantities import counted
from analyze.tables.printable import printable

__all__ = ["caption", "definition_sentence", "looked_at", "stores_sentences"]


def caption(overview: Overview, stores: Sequence[StoreView], view: View, drawn: Drawn) -> str:
    """The whole caption as one paragraph: title, what is seen, the definition, models, text and sequences."""
    facts = [store.facts for store in stores]
    return _paragraph(
        f"{view.title}.",
        drawn.caption,
        definition_sentence(overview) if view.by_rule else "",
        *stores_sentences(facts, _shares if view.by_rule else looked_at),
        *(f"Not shown: {line}" for line in drawn.left_out),
    )


def definition_sentence(overview: Overview) -> str:
    """What is counted, at any magnitude."""
    asked = overview.asked
    return f"Definition {asked.definition}: {asked.words}."


def stores_sentences(facts: Sequence[StoreFacts], part: Callable[[StoreFacts], str] | None = None) -> list[str]:
    """Models, what of them was looked at, and the text: a sentence for each way in which they agree."""
    said: dict[str, list[str]] = {}
    for one in facts:
        said.setdefault(f"{(part or _shares)(one)}; {_text(one)}.", []).append(_model(one))
    return [f"{', '.join(models)}: {words}" for words, models in said.items()]


def _model(facts: StoreFacts) -> str:
    revision = facts.model.get("revision")
    identity = str(facts.model.get("id") or facts.name)
    named = "" if identity == facts.label and not revision else f" [{identity}{f' at {revision}' if revision else ''}]"
    return f"{facts.label}{named}"


def _shares(facts: StoreFacts) -> str:
    return facts.shares_words


def looked_at(facts: StoreFacts) -> str:
    """What of the store, where no shares are asked of it."""
    return (
        f"{counted(len(facts.layers), 'layer')} x {', '.join(facts.sites)}, {counted(len(facts.sequences), 'sequence')}"
    )


def _text(facts: StoreFacts) -> str:
    corpus = facts.provenance["corpus"]
    parts = [corpus[name] for name in ("source", "config", "split") if corpus.get(name)]
    return f"text {', '.join(map(str, parts))}, {counted(corpus['length'], 'token')} a sequence"


def _paragraph(*sentences: str) -> str:
    """Sentences, each with a full stop."""
    parts = [sentence.strip() for sentence in sentences if sentence.strip()]
    return printable(" ".join(part + ("" if part[-1] in ".:" else ".") for part in parts))
