"""docs/store-format.md against the code: its tables are complete and true, its snippets run as they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from schemas import FORMAT_VERSION, bits
from schemas.bits import ENCODINGS
from schemas.codecs import CODECS
from schemas.layout import Dimensions, plan_arrays
from schemas.provenance import CorpusInfo, ModelInfo, NormInfo, RoutingInfo, RunInfo, SiteInfo, SoftwareInfo

PAGE = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def table(first: str, columns: int) -> list[list[str]]:
    """Rows of the table of so many columns whose first one is called ``first``."""
    for body in re.findall(rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in body.splitlines()]
        if len(rows[0]) == columns:
            return rows
    raise AssertionError(f"docs/store-format.md has no table of {columns} columns that begins with {first}")


def test_the_page_is_of_this_version() -> None:
    assert PAGE.startswith(f"# The run store: format {FORMAT_VERSION}\n")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text.split("\n")[0])
def test_snippets_run_as_they_stand(
    snippet: str, make_store: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_store("bfloat16", Dimensions(4, 2, 5, 7), name="runs/smollm2-135m.zarr")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)  # the page's own code, on a store of that name
    written = made.written["ln_attn"][3, 0]
    if "stored" in names:
        np.testing.assert_array_equal(names["stored"], written)
    if "values" in names:
        np.testing.assert_array_equal(names["values"], bits.decode(written, made.encoding))
    if "complete" in names:
        assert names["complete"].values.all()


def test_every_way_of_opening_has_a_snippet() -> None:
    assert len(SNIPPETS) == 4


@pytest.mark.parametrize("row", table("encoding", 7), ids=lambda row: row[0])
def test_the_table_of_encodings_is_right(row: list[str]) -> None:
    encoding = ENCODINGS[row[0]]
    assert row[1:4] == ["1 bit", f"{encoding.exponent_bits} bits", f"{encoding.mantissa_bits} bits"]
    assert [int(row[4], 16), int(row[5], 16)] == [encoding.nan, encoding.infinity]


@pytest.mark.parametrize("row", table("encoding", 5), ids=lambda row: f"{row[0]} {row[1]}")
def test_worked_patterns_are_right(row: list[str]) -> None:
    name, pattern, value, cleared, hit = row
    encoding = ENCODINGS[name]
    stored = np.array([int(pattern, 16)], encoding.unsigned).view(encoding.stored)
    assert repr(float(bits.decode(stored, encoding)[0])) == value
    assert bits.magnitude_bits(stored, encoding)[0] == int(cleared, 16)
    threshold = bits.threshold_bits(Fraction(6), encoding)
    assert bits.hits(stored, threshold, encoding)[0] == (hit == "yes")


def test_every_encoding_is_described_and_worked() -> None:
    assert [row[0] for row in table("encoding", 7)] == list(ENCODINGS)
    assert {row[0] for row in table("encoding", 5)} == set(ENCODINGS)


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_table_of_arrays_is_what_is_made(name: str) -> None:
    encoding = ENCODINGS[name]
    sizes = Dimensions(11, 13, 17, 19, ranks=23, experts=29)
    made = {
        (
            spec.name.replace("ln_attn", "SITE"),
            ", ".join(spec.dims),
            "values" if spec.dtype == encoding.stored and "bits" in dict(spec.attributes) else spec.dtype.name,
            "NaN" if spec.fill != spec.fill or spec.fill == encoding.nan else str(spec.fill),
            ", ".join("1" if chunk == 1 else "P" if chunk == 17 else "all" for chunk in spec.chunks),
        )
        for kind in ("rms", "layer")
        for spec in plan_arrays(sizes, ["ln_attn"], encoding, norms={"ln_attn": NormInfo(kind=kind, bias="bias")})
    }
    described = {tuple(row[:5]) for row in table("array", 6)}
    assert described == made


def fields(model: type[BaseModel], prefix: str = "") -> set[str]:
    return {prefix + name for name in model.model_fields}


def test_the_table_of_attributes_is_complete() -> None:
    expected = fields(RunInfo) | fields(ModelInfo, "model.") | fields(CorpusInfo, "corpus.")
    expected |= fields(SoftwareInfo, "software.") | fields(SiteInfo, "sites.NAME.") | fields(RoutingInfo, "routing.")
    expected |= fields(NormInfo, "sites.NAME.norm.")
    assert {row[0] for row in table("attribute", 3)} == expected


def test_nullable_attributes_are_those_that_may_be_null() -> None:
    models = {
        "": RunInfo,
        "model.": ModelInfo,
        "corpus.": CorpusInfo,
        "software.": SoftwareInfo,
        "sites.NAME.": SiteInfo,
        "routing.": RoutingInfo,
        "sites.NAME.norm.": NormInfo,
    }
    nullable = {
        prefix + name
        for prefix, model in models.items()
        for name, field in model.model_fields.items()
        if type(None) in getattr(field.annotation, "__args__", ())
    }
    assert {row[0] for row in table("attribute", 3) if row[1].endswith("or null")} == nullable


def test_the_table_of_codecs_is_what_a_store_may_have() -> None:
    named = {
        f"{cname}-{level}-{shuffle}"
        for _, cname, levels, shuffles in table("codec", 4)
        for level in re.findall(r"\d", levels)
        for shuffle in re.findall(r"\w*shuffle", shuffles)
    }
    assert named == set(CODECS)


def test_the_codecs_are_those_that_are_written(make_store: Callable[..., Any]) -> None:
    made = make_store("bfloat16", commit=False)
    described = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    assert json.loads((made.path / "ln_attn" / "zarr.json").read_text())["codecs"] == described
