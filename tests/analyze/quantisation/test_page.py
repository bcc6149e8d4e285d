"""docs/quantisation.md: its worked example is what the code makes of it, and it lists every format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from analyze.quantisation.answer import quantisation_errors
from analyze.quantisation.formats import FORMATS
from analyze.quantisation.tensor import Block, Settings, measure_extent
from tests.analyze.conftest import Command
from tests.stores import write_store

PAGE = (Path(__file__).parents[3] / "docs" / "quantisation.md").read_text(encoding="utf-8")
EXAMPLE = PAGE[PAGE.index("## Worked example") :]
ROWS = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in EXAMPLE.splitlines() if line.startswith("|")]
TENSOR = np.float32([[float(cell) for cell in row[1:]] for row in ROWS if len(row) == 5 and row[0] in ("0", "1")])
MADE = {row[0]: row[1:] for row in ROWS if row[0] in FORMATS}


def test_the_example_has_every_format_and_so_has_the_list() -> None:
    assert list(MADE) == list(FORMATS)
    listed = PAGE[PAGE.index("## Formats") : PAGE.index("## Errors")]
    for name in FORMATS:
        kind = name.removesuffix("-token")
        assert f"`{name}`" in listed or (f"`{kind}-tensor`, `-token`" in listed)


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_is_what_comes_out(name: str, tmp_path: Path) -> None:
    *tokens, sqnr, relative, flushed, clipped = MADE[name]
    block = Block(TENSOR.astype(np.float64) if FORMATS[name].double else TENSOR)
    out = np.empty_like(block.values)
    extent = measure_extent(TENSOR, np.float32(6))
    FORMATS[name].kernel(block, extent, Settings(2, np.float32(6)), out, np.empty_like(out))
    assert [", ".join(f"{value:.4f}" for value in row) for row in out.tolist()] == tokens
    write_store(tmp_path / "example.zarr", {"ln_attn": TENSOR[None, None]})
    found = quantisation_errors(tmp_path / "example.zarr", name, group_size=2).isel(site=0, layer=0, format=0)
    cell = found.sel(positions="all")
    assert f"{float(cell.sqnr_db):.2f}" == sqnr
    assert f"{100 * float(cell.relative_error):.2f}%" == relative
    assert round(8 * float(cell.flushed)) == int(flushed)
    assert round(8 * float(cell.clipped)) == int(clipped)
    if name == "llm-int8":
        assert found.outlier_columns.values.tolist() == [0.5, 1]
        assert found.tokens_per_call.values.tolist() == [1, 2]


def test_numbers_in_the_text_are_those_of_the_table() -> None:
    steps = re.findall(r"- `([a-z0-9-]+)`: (.*?)(?=\n- |\n\n)", EXAMPLE, re.DOTALL)
    assert len(steps) == 6
    for name, text in steps:
        restored = ", ".join(MADE[name][:2]).split(", ")
        ends = [part.split("=")[-1] for part in re.findall(r"x\^\s+=\s[^,]*?(?=[.,](?:\s|$))", text)]
        for end in ends:
            assert f"{float(end):.4f}" in restored, (name, end)


def test_the_fields_are_those_of_the_json(analyze: Command, noisy_store: Path) -> None:
    _, out, _ = analyze("--store", noisy_store, "--quantisation", "llm-int8", "--format", "json")
    listed = PAGE[PAGE.index("## In JSON and CSV") : PAGE.index("## Worked example")]
    tables = json.loads(out)["tables"]
    assert [table["table"] for table in tables] == ["quantisation", "outlier_columns"]
    for table in tables:
        (line,) = [line for line in listed.splitlines() if line.startswith(f"| `{table['table']}` ")]
        fields = re.findall(r"`([a-z_0]+)`", line.split("|")[2])
        if "_without_0" in fields:
            place = fields.index("_without_0")
            fields[place : place + 1] = [f"{field}_without_0" for field in fields[place - 4 : place]]
        assert list(table["rows"][0]) == fields
