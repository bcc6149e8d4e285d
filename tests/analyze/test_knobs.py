"""Every knob of a definition, alone and together, through both routes: against loops, and against each other."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.thresholds.answers import answer
from analyze.thresholds.definitions import DEFINITIONS, ONE_HIT, Minimum
from analyze.thresholds.question import ask
from analyze.thresholds.results import Result
from schemas.layout import MASK_DOCUMENT_START, MASK_SPECIAL
from schemas.provenance import NormInfo
from tests.analyze.comparison import content
from tests.analyze.knob_oracle import Asked, Told, told
from tests.analyze.worlds import PRESETS, SHARES, World, worlds
from tests.stores import write_store

MAGNITUDES = ("6", "0.001", "5.97", "6.001", "12", "70000")
TOKENS = ("all", "special", "first", "rest")


@dataclass(frozen=True)
class Knobs:
    """What ``ask`` takes, and the mask and gains of the store that it is asked of."""

    asked: dict[str, Any]
    mask: npt.NDArray[np.uint8]
    gains: dict[str, npt.NDArray[np.float32]]


@st.composite
def knobs(draw: st.DrawFn, world: World) -> Knobs:
    layers, sequences, positions, features = next(iter(world.sites.values())).shape
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    preset = draw(st.sampled_from(PRESETS))
    asked: dict[str, Any] = {
        "definition": preset,
        "layers": draw(st.sampled_from(SHARES)),
        "positions": draw(st.sampled_from(SHARES)),
        "layer_unit": draw(st.sampled_from((None, "cell", "block"))),
        "scope": draw(st.sampled_from((None, "sequence") if preset == "majority" else (None, "sequence", "pooled"))),
        "position_coverage": draw(st.sampled_from((None, "union", "mean", "density"))),
        "minimum_hits": draw(st.sampled_from((None, 1, min(2, positions), "30%", "2/3"))),
        "tokens": draw(st.sampled_from(TOKENS)),
        "in_gain_units": draw(st.booleans()),
        "layers_range": draw(st.sampled_from((None, "0:", f"{layers - 1}:", f"0,{layers - 1}"))),
        "positions_range": draw(st.sampled_from((None, ":", f"{positions - 1}:", f"{min(1, positions - 1)}:"))),
    }
    mask = random.choice([0, 0, MASK_SPECIAL, MASK_DOCUMENT_START, 3], (sequences, positions)).astype(np.uint8)
    values = np.array([1, -1, 0.5, 3, -0.1, 1.0000001, 1e-30, 7e20], np.float32)
    gains = {name: random.choice(values, (layers, features)) for name in world.sites}
    return Knobs(asked, mask, gains)


def write(path: Path, world: World, mask: Any, gains: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A store of the world with a mask and gains; what its sites hold."""
    shape = next(iter(world.sites.values())).shape
    norm = NormInfo(kind="rms", eps=1e-6, gain="weight", modules=[f"layers.{i}" for i in range(shape[0])])
    beside = {"token_mask": mask}
    for name in world.sites:
        beside[f"{name}_gain"] = gains[name]
        beside[f"{name}_rms"] = np.ones(shape[:3], np.float32)
    return write_store(
        path,
        world.sites,
        world.encoding,
        position_chunk=world.position_chunk,
        norms=dict.fromkeys(world.sites, norm),
        beside=beside,
        **more,
    )


def chosen_positions(mask: Any, asked: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Positions of each sequence, from the words of docs/definitions.md."""
    start = int((asked["positions_range"] or "0:").removesuffix(":") or 0)

    def of(row: Any, token: int) -> str:
        if row[token] & MASK_SPECIAL:
            return "special"
        return "first" if token == 0 or row[token] & MASK_DOCUMENT_START else "rest"

    return tuple(tuple(p for p in range(start, row.size) if asked["tokens"] in ("all", of(row, p))) for row in mask)


def exact(site: Any, gain: Any, in_gain_units: bool) -> list[Any]:
    """Nested lists of Fractions; None for NaN."""

    def number(layer: int, feature: int, value: float) -> Any:
        if math.isnan(value) or math.isinf(value):
            return None if math.isnan(value) else float(value)
        return Fraction(value) / (Fraction(float(gain[layer, feature])) if in_gain_units else 1)

    return [
        [[[number(layer, f, float(v)) for f, v in enumerate(row)] for row in sequence] for sequence in site[layer]]
        for layer in range(len(site))
    ]


def rounded_up(magnitude: Fraction) -> Fraction:
    """The smallest float32 that is not below it."""
    found = np.float32(float(magnitude))
    return Fraction(float(found if Fraction(float(found)) >= magnitude else np.nextafter(found, np.float32(np.inf))))


def expected(world: World, held: dict[str, Any], knobs: Knobs, magnitude: Fraction, question: Any) -> Told:
    asked, definition = knobs.asked, question.definition
    layers = next(iter(held.values())).shape[0]
    chosen = {None: range(layers), "0:": range(layers), f"{layers - 1}:": [layers - 1]}
    gained = asked["in_gain_units"]
    return told(
        [exact(held[name], knobs.gains[name], gained) for name in held],
        Asked(
            magnitude=rounded_up(magnitude) if gained else magnitude,
            layers=question.layers.value,
            positions=question.positions.value,
            unit=definition.layer_unit,
            scope=definition.scope,
            share=definition.sequence_share,
            coverage=asked["position_coverage"] or "union",
            minimum={None: 1, "30%": Fraction(3, 10), "2/3": Fraction(2, 3)}.get(
                asked["minimum_hits"], asked["minimum_hits"]
            ),
            layers_chosen=tuple(chosen.get(asked["layers_range"], sorted({0, layers - 1}))),
            chosen=chosen_positions(knobs.mask, asked),
        ),
    )


def agree(result: Result, must: Told) -> None:
    found = sorted((f.sequence, f.feature, f.layer_percent, f.position_percent) for f in result.features())
    assert found == sorted(must.units)
    assert list(result.by_sequence) == must.by_sequence
    assert (result.outliers, result.unique_features) == (len(found), len({feature for _, feature, *_ in found}))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_all_knobs_together_as_loops_do(data: st.DataObject) -> None:
    world = data.draw(worlds())
    turned = data.draw(knobs(world))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.zarr"
        held = write(path, world, turned.mask, turned.gains)
        question = ask(",".join(MAGNITUDES), **turned.asked)
        if not any(chosen_positions(turned.mask, turned.asked)):
            with pytest.raises(ValueError, match=r"has no \w+ tokens at the chosen positions"):
                answer(path, question)
            return
        most = [len(row) for row in chosen_positions(turned.mask, turned.asked)]
        total = sum(most) if question.definition.scope == "pooled" else max(most)
        if isinstance(turned.asked["minimum_hits"], int) and turned.asked["minimum_hits"] > total:
            with pytest.raises(ValueError, match="is out of range"):
                answer(path, question)
            return
        for result in answer(path, question):
            agree(result, expected(world, held, turned, result.magnitude, question))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_counting_and_order_statistics_say_the_same(data: st.DataObject) -> None:
    """Where both can answer: union, and one hit or a sequence's own. Each magnitude counted, or a critical one."""
    from analyze.thresholds import plan

    world = data.draw(worlds())
    turned = data.draw(knobs(world))
    asked = {**turned.asked, "position_coverage": None, "tokens": "all"}
    if asked["scope"] == "pooled" or (asked["scope"] is None and asked["definition"].startswith("llm")):
        asked["minimum_hits"] = None
    if asked["minimum_hits"] == 2 and len(chosen_positions(turned.mask, asked)[0]) < 2:  # refused, as it is above
        asked["minimum_hits"] = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.zarr"
        write(path, world, turned.mask, turned.gains)
        question = ask("1:13:0.75", engine="slices", **asked)
        by_critical = answer(path, question)
        assert not by_critical[0].plan.by_count
        original = plan.make_plan
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "analyze.thresholds.answers.make_plan", lambda *a: dataclasses.replace(original(*a), by_count=True)
            )
            by_count = answer(path, question)
        for one, other in zip(by_critical, by_count, strict=True):
            numbers = [
                {
                    **{name: value for name, value in content(r).items() if name != "features"},
                    "features": sorted(dataclasses.astuple(f)[:5] for f in r.features()),
                }
                for r in (one, other)
            ]
            assert numbers[0] == numbers[1]
            assert all(feature.critical_magnitude is None for feature in other.features())


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(worlds(), st.sampled_from(SHARES), st.sampled_from(SHARES), st.sampled_from(PRESETS))
def test_knobs_that_change_nothing_are_answered_from_peaks(
    world: World, layers: str, positions: str, preset: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.zarr"
        write_store(path, world.sites, world.encoding, position_chunk=world.position_chunk)
        shares = {"layers": layers, "positions": positions, "definition": preset}
        plain = answer(path, ask("0.5:13:0.5", **shares))  # type: ignore[arg-type]
        same = {"layers_range": "0:", "positions_range": ":", "minimum_hits": "1", "position_coverage": "union"}
        turned = answer(path, ask("0.5:13:0.5", **shares, **same))  # type: ignore[arg-type]
        assert {result.plan.answered_from for result in turned} == {"peaks"}
        sliced = answer(path, ask("0.5:13:0.5", engine="slices", **shares, **same))  # type: ignore[arg-type]
        assert {result.plan.answered_from for result in sliced} == {"slices"}
        assert [content(r) for r in plain] == [content(r) for r in turned] == [content(r) for r in sliced]


@settings(max_examples=8, deadline=None)
@given(worlds(), st.sampled_from(PRESETS), st.sampled_from(("cell", "block")), st.sampled_from(SHARES))
def test_layer_unit_and_scope_through_both_routes(world: World, preset: str, unit: str, share: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.zarr"
        write_store(path, world.sites, world.encoding, position_chunk=world.position_chunk)
        scope = "sequence" if preset == "majority" else "pooled" if preset == "moe-table" else "sequence"
        given = {"definition": preset, "layer_unit": unit, "scope": scope, "layers": share}
        peaks = answer(path, ask("0.5:13:0.5", engine="peaks", **given))  # type: ignore[arg-type]
        slices = answer(path, ask("0.5:13:0.5", engine="slices", **given))  # type: ignore[arg-type]
        assert [content(result) for result in peaks] == [content(result) for result in slices]


def test_presets_are_rows_of_knobs(noisy_store: Path) -> None:
    """llm-int8 is moe-table pooled, and llm-int8-block that by blocks."""
    pooled = answer(noisy_store, ask("4,6,9", scope="pooled"))
    assert [content(r) for r in pooled] == [
        content(r) for r in answer(noisy_store, ask("4,6,9", definition="llm-int8"))
    ]
    blocks = answer(noisy_store, ask("4,6,9", scope="pooled", layer_unit="block"))
    named = answer(noisy_store, ask("4,6,9", definition="llm-int8-block"))
    assert [content(r) for r in blocks] == [content(r) for r in named]
    assert all(definition.minimum_hits == ONE_HIT for definition in DEFINITIONS.values())
    assert Minimum("2%", 1, Fraction(1, 50)).of(0) == 1
