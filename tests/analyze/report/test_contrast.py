"""Colours of the page against what they are on, by the formula of WCAG 2: text at least 4.5, what is drawn 3."""

from __future__ import annotations

import importlib.resources
import re

import pytest

from analyze.report.charts import PALETTE

TEXT = (
    ("ink", "paper"),
    ("quiet", "paper"),
    ("accent", "paper"),
    ("paper", "accent"),  # a feature that is picked
    ("ink", "panel"),
    ("quiet", "panel"),
    ("ink", "warm-paper"),
    ("warm", "warm-paper"),
)
USES = {"ink", "quiet", "accent", "warm", "paper"}
"""Variables that the style gives to text: one more needs its pairs above."""


def styles() -> dict[str, dict[str, str]]:
    """Colours by variable, of the screen by day, by night and of paper."""
    css = importlib.resources.files("analyze.report").joinpath("page", "style.css").read_text(encoding="utf-8")
    roots = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", body)) for body in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    day, night, paper = roots
    assert set(re.findall(r"[^-]color: var\(--([a-z-]+)\)", css)) <= USES
    assert set(day) == set(night) == set(paper)
    return {"day": day, "night": night, "paper": paper}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("style", ["day", "night", "paper"])
def test_text_and_drawings_stand_out(style: str) -> None:
    colours = styles()[style]
    found = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in TEXT}
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}
    lines = {colour: contrast(colour, colours["paper"]) for colour in PALETTE}
    assert {colour: ratio for colour, ratio in lines.items() if ratio < 3} == {}
