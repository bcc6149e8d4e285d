"""What was published about a model, as data, and the row that a run's model has there."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePath

from schemas.provenance import ModelInfo

__all__ = ["PROTOCOLS", "Protocol", "PublishedRow", "find_published", "published_rows"]


@dataclass(frozen=True)
class Protocol:
    """How a published table was made, in words; ``definition``: the preset that counts as it did."""

    source: str
    definition: str
    text: str
    tokens: str
    length: int | None
    sequences: int | None
    sites: tuple[str, ...]
    sites_words: str
    precision: str
    counting: str


PROTOCOLS: dict[str, Protocol] = {
    "moe_table.csv": Protocol(
        source="the published table of mixture-of-experts models (Outlier Features Analysis, Results Summary)",
        definition="moe-table",
        text="FineWeb-Edu, the first documents of its stream, in windows that overlap by half",
        tokens="16 sequences, decoded to text and encoded again with each tokenizer's default special tokens",
        length=2048,
        sequences=16,
        sites=("ln_attn", "ln_mlp"),
        sites_words="ln_attn and ln_mlp, each tensor of each block a layer",
        precision="hidden states stored as bfloat16",
        counting="(sequence, feature) pairs with |X| >= 6 in 25% of layers, at 6% of positions, summed over sequences",
    ),
    "llm_int8_table4.csv": Protocol(
        source="LLM.int8() (arXiv 2208.07339), Appendix C, Table 4",
        definition="llm-int8",
        text="perplexity on the validation split of C4; the text of the outliers is not said",
        tokens="not said",
        length=None,
        sequences=None,
        sites=("ln_attn", "ln_mlp"),
        sites_words="inputs of attention projections and feed-forward expansion; what counts as a layer is not said",
        precision="not said",
        counting="features, each once, with |X| >= 6 in 25% of layers and 6% of sequence dimensions",
    ),
}


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table; None for what it does not say. Parameter counts as printed ("30.5B")."""

    table: str
    hub_id: str
    name: str
    total_parameters: str
    active_parameters: str | None
    experts: int | None
    experts_printed: int | None
    shared_experts: int | None
    top_k: int | None
    routing: str | None
    outliers: int
    mean_layer_percent: float
    mean_position_percent: float
    perplexity: float | None
    precision: str | None
    one_sided: int | None
    quartiles: tuple[float, float, float] | None

    @property
    def protocol(self) -> Protocol:
        """How its table was made."""
        return PROTOCOLS[self.table]

    @property
    def correction(self) -> str | None:
        """What the table prints that the model's public configuration says otherwise."""
        if self.experts_printed is None:
            return None
        return (
            f"the published row of {self.name} prints {self.experts_printed} experts; its configuration says "
            f"{self.experts}, which is shown"
        )


@cache
def published_rows() -> tuple[PublishedRow, ...]:
    """Every published row that is shipped, table by table."""
    return tuple(row for table in PROTOCOLS for row in _rows(table))


def _rows(table: str) -> list[PublishedRow]:
    text = resources.files("analyze.between").joinpath("data", table).read_text(encoding="utf-8")
    records = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return [_row(table, {name: value or "" for name, value in record.items()}) for record in records]


def _row(table: str, record: dict[str, str]) -> PublishedRow:
    def integer(name: str) -> int | None:
        return int(record[name]) if record.get(name) else None

    def number(name: str) -> float | None:
        return float(record[name]) if record.get(name) else None

    quartiles = [number(f"quartile_{i}") for i in (1, 2, 3)]
    return PublishedRow(
        table=table,
        hub_id=record["hub_id"],
        name=record["name"],
        total_parameters=record["total_params"],
        active_parameters=record.get("active_params") or None,
        experts=integer("experts"),
        experts_printed=integer("experts_printed"),
        shared_experts=integer("shared_experts"),
        top_k=integer("top_k"),
        routing=record.get("routing") or None,
        outliers=int(record["outliers"]),
        mean_layer_percent=float(record["mean_layers_percent"]),
        mean_position_percent=float(record["mean_positions_percent"]),
        perplexity=number("perplexity"),
        precision=record.get("precision") or None,
        one_sided=integer("one_sided"),
        quartiles=None if None in quartiles else (quartiles[0], quartiles[1], quartiles[2]),  # type: ignore[arg-type]
    )


def find_published(model: ModelInfo) -> PublishedRow | None:
    """The published row of a model: by its Hub id, else by the last part of its id or its name, whatever their case."""
    wanted = model.id.lower()
    for row in published_rows():
        if row.hub_id and row.hub_id.lower() == wanted:
            return row
    names = {PurePath(model.id).name.lower(), PurePath(model.name).name.lower()}
    for row in published_rows():
        if names & {row.name.lower(), PurePath(row.hub_id).name.lower()} - {""}:
            return row
    return None
