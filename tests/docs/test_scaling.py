"""The arithmetic of docs/scaling.md, from the arrays that a store really has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.bits import ENCODINGS
from schemas.layout import Dimensions, plan_arrays
from schemas.provenance import NormInfo

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
MODELS = {1: Dimensions(48, 1, 2048, 2048, 8, 128), 2: Dimensions(30, 1, 2048, 576)}
"""Column of the table -> one sequence of that model."""
SITES = ("ln_attn", "ln_mlp")


def row(label: str) -> list[str]:
    """The cells of the row that begins so."""
    found = re.search(rf"^\| {re.escape(label)} \|(.*)\|$", PAGE, re.MULTILINE)
    assert found is not None, label
    return [label, *(cell.strip() for cell in found[1].split("|"))]


def taken(size: Dimensions) -> dict[str, tuple[int, int]]:
    """(bytes, chunks) of one sequence by row of the page's table."""
    norms = dict.fromkeys(SITES, NormInfo(kind="rms", gain="weight"))
    found: dict[str, tuple[int, int]] = {}
    for spec in plan_arrays(size, SITES, ENCODINGS["bfloat16"], norms=norms):
        if "sequence" not in spec.dims:
            continue
        kinds = {"_layer_peak": "layer peaks", "_position_peak": "position peaks"}
        label = "slices" if spec.name in SITES else "norms, tokens, losses, log"
        label = next((kinds[end] for end in kinds if spec.name.endswith(end)), label)
        label = "experts, their weights and maxima" if spec.name.startswith("expert") else label
        held = found.get(label, (0, 0))
        found[label] = (held[0] + spec.raw_bytes, held[1] + spec.chunk_count)
    return found


@pytest.mark.parametrize("column", MODELS)
def test_what_a_sequence_takes(column: int) -> None:
    found = taken(MODELS[column])
    for label, (size, _) in found.items():
        told = row(label)[column].removesuffix(" MB")
        places = len(told.partition(".")[2])
        assert f"{size / 1e6:.{places}f}" == told, label
    rest = sum(size for label, (size, _) in found.items() if label != "slices")
    assert row("all but the slices")[column] == f"{rest / 1e6:.1f} MB"


def test_what_a_million_sequences_take() -> None:
    found = taken(MODELS[1])
    peaks = [held for label, held in found.items() if label != "slices"]
    assert row("decoded")[1:] == [
        f"{sum(size for size, _ in found.values()) / 1e6:.0f} TB",
        f"{sum(size for size, _ in peaks) / 1e6:.1f} TB",
    ]
    assert row("files")[1:] == [
        f"{sum(chunks for _, chunks in found.values())} million",
        f"{sum(chunks for _, chunks in peaks)} million",
    ]


def test_hours_are_multiplications() -> None:
    hours = re.findall(r"^\| .* \| (\d+) sequences in ([0-9.]+) s \| (\d+) ", PAGE, re.MULTILINE)
    assert len(hours) == 4
    for sequences, seconds, told in hours:
        assert round(1e6 / int(sequences) * float(seconds) / 3600) == int(told)


def test_what_is_on_disk_is_what_the_ratios_give() -> None:
    number = "([0-9]\\.[0-9]+)"
    found = re.search(
        rf"slices compress to {number} of that, position peaks to {number} and layer peaks to {number}", PAGE
    )
    assert found is not None
    ratios = dict(zip(("slices", "position peaks", "layer peaks"), map(float, found.groups()), strict=True))
    sizes = {label: size * ratios.get(label, 1) / 1e6 for label, (size, _) in taken(MODELS[1]).items()}
    everything = sum(sizes.values())
    told = [f"about {round(everything, -1):.0f} TB", f"about {everything - sizes['slices']:.0f} TB"]
    assert row("on disk")[1:] == told
