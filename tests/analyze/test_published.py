"""The published table beside a measured one: whole, found by name, with the differences in protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyze import ask
from analyze.between.protocol import protocol_aspects
from analyze.between.published import PROTOCOLS, find_published, published_rows
from analyze.thresholds.plan import make_plan
from schemas.run import Run
from tests.stores import changed_info


def test_the_published_tables_are_whole() -> None:
    rows = {row.name: row for row in published_rows()}
    assert len(rows) == len(published_rows()) == 12 + 10
    assert {row.table for row in rows.values()} == set(PROTOCOLS)
    mixtral = rows["Mixtral-8x7B"]
    assert (mixtral.outliers, mixtral.mean_layer_percent, mixtral.mean_position_percent) == (4635, 50.2, 37.4)
    assert (rows["GPT-OSS-20B"].experts, rows["GPT-OSS-20B"].experts_printed) == (32, 128)
    assert "prints 128 experts; its configuration says 32" in (rows["GPT-OSS-20B"].correction or "")
    assert [name for name, row in rows.items() if row.correction] == ["GPT-OSS-20B"]
    gpt2 = rows["gpt2"]
    assert (gpt2.outliers, gpt2.perplexity, gpt2.quartiles) == (1, 33.5, (-8, -7, -6))
    assert sum(row.outliers for row in rows.values() if row.table == "moe_table.csv" and row.experts) == 8917
    assert all(row.perplexity is None for row in rows.values() if row.table == "moe_table.csv")


@pytest.mark.parametrize(
    ("id", "name", "found"),
    [
        ("openai/gpt-oss-20b", "mine", "GPT-OSS-20B"),
        ("OPENAI/GPT-OSS-20B", "mine", "GPT-OSS-20B"),
        ("checkpoints/Qwen3-30B-A3B", "x", "Qwen3-30B"),
        ("somewhere", "gpt2-xl", "gpt2-xl"),
        ("KoboldAI/fairseq-dense-13B", "fairseq-13B", "fairseq-13B"),
        ("tests/tiny", "tiny", None),
    ],
)
def test_a_published_row_is_found(id: str, name: str, found: str | None) -> None:
    row = find_published(changed_info(id=id, name=name).model)
    assert (row and row.name) == found


def test_differences_in_protocol_are_spelled_out(noisy_store: Path) -> None:
    plan = make_plan(Run(noisy_store), ask("6"))
    (olmoe,) = [row for row in published_rows() if row.name == "OLMoE-1B-7B"]
    info = changed_info(source="HuggingFaceFW/fineweb-edu")
    aspects = {aspect.name: aspect for aspect in protocol_aspects(olmoe, info, plan)}
    assert list(aspects) == ["text", "tokens", "sequence length", "sites", "precision", "counting"]
    assert {name: aspect.same for name, aspect in aspects.items()} == {
        "text": "no",
        "tokens": "no",
        "sequence length": "no",
        "sites": "yes",
        "precision": "yes",
        "counting": "no",
    }
    (gpt2,) = [row for row in published_rows() if row.name == "gpt2"]
    assert {a.same for a in protocol_aspects(gpt2, changed_info(), plan) if a.name != "counting"} == {"not known"}
