"""What an overview embeds answers any magnitude and shares as the command does; and it holds what other calls say."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze import ask, outliers, overview, sweep
from analyze.overviews.document import json_text
from analyze.overviews.packing import packed, unpacked
from analyze.overviews.results import Absent, StoreView
from analyze.thresholds.answers import answer
from schemas.errors import InputError

KNOBS: tuple[dict[str, Any], ...] = (
    {},
    {"definition": "llm-int8"},
    {"definition": "llm-int8-block"},
    {"definition": "majority"},
    {"position_coverage": "density", "definition": "majority"},
    {"position_coverage": "mean"},
    {"minimum_hits": 2, "definition": "llm-int8"},
    {"minimum_hits": "10%"},
)
SHARES = ("5%", "6%", "7%", "25%", "33%", "50%", "61%", "99%", "100%")


def columns_of(text: str) -> list[dict[int, tuple[int, int]]]:
    """At each threshold, of each unit held the layers and the position shares met, in the plainest way."""
    _rows, _features, lengths, layer_steps, share_steps, *_ = unpacked(text)
    found: list[dict[int, tuple[int, int]]] = []
    order, at = list(range(len(lengths))), 0
    for place in range(max(lengths, default=0)):
        order = [unit for unit in order if lengths[unit] > place]
        if found:
            order.sort(key=lambda unit: found[-1][unit][::-1])
        column = {}
        for unit, layers, step in zip(order, layer_steps[at:], share_steps[at:], strict=False):
            before = found[-1][unit] if found else (0, 0)
            fewer = -(step + 1) // 2 if step % 2 else step // 2
            column[unit] = (before[0] - layers, before[1] - fewer) if found else (layers, step)
        found.append(column)
        at += len(order)
    return found


def counted(seen: StoreView, asked: Any, place: int, layers: Fraction, positions: Fraction) -> tuple[int, int]:
    """(outliers, unique features) from the packed counts."""
    facts, threshold = seen.facts, seen.coverage.threshold_of[place]
    text = seen.coverage.features if asked.scope == "pooled" else seen.coverage.pairs
    assert text is not None
    columns = columns_of(text)
    steps = [Fraction(step.numerator, step.denominator) for step in asked.position_shares]
    features = np.cumsum(unpacked(text)[1]).tolist()
    met = [
        features[unit]
        for unit, (hit, share) in (columns[threshold] if threshold < len(columns) else {}).items()
        if hit >= layers * facts.layers_total and share > steps.index(positions)
    ]
    if facts.sequences_needed is not None:
        met = [f for f in set(met) if met.count(f) >= facts.sequences_needed]
    return len(met), len(set(met))


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_packed_counts_answer_as_the_command_does(noisy_store: Path, knobs: dict[str, Any]) -> None:
    seen = overview(noisy_store, "6,2:30:3.5", engine="peaks" if set(knobs) <= {"definition"} else "auto", **knobs)
    random_ = random.Random(5)
    for layers, positions in [("25%", "6%"), *((random_.choice(SHARES), random_.choice(SHARES)) for _ in range(3))]:
        shares = [Fraction(int(text[:-1]), 100) for text in (layers, positions)]
        question = ask(",".join(seen.asked.magnitudes), layers=layers, positions=positions, **knobs)
        for place, result in enumerate(answer(noisy_store, question)):
            expected = result.outliers, result.unique_features
            assert counted(seen.stores[0], seen.asked, place, *shares) == expected, (layers, positions, place)
            if (layers, positions) == ("25%", "6%"):
                point = seen.stores[0].sweep[place]
                assert (point.outliers, point.unique_features) == expected
                assert seen.stores[0].phase.outliers[4][place] == result.outliers


def test_phase_map_is_a_sweep_at_each_layer_share(noisy_store: Path) -> None:
    for definition, positions in (("moe-table", "6%"), ("majority", "0.0625000000000000000001")):
        seen = overview(noisy_store, "4:12:4", engine="peaks", definition=definition, positions=positions)
        found = seen.stores[0].phase
        for row in (0, 9, 19):
            share = found.layer_shares[row]
            plain = sweep(noisy_store, "4:12:4", layers=share, positions=positions, definition=definition)
            assert list(found.outliers[row]) == plain.outliers.values.tolist()


def test_features_say_where_they_live(noisy_store: Path) -> None:
    seen = overview(noisy_store, "6:12:2", chosen=8, features=3)
    store, units = seen.stores[0], outliers(noisy_store, 6)
    first = store.features[0]
    assert first.feature == int(units.feature[0])
    assert first.critical_magnitude == float(units.critical_magnitude[0])
    assert len(store.features) == 3
    assert first.counted
    assert max(map(max, first.layer_peak)) == first.peak == first.positions[0].peak == max(first.sequence_peak)
    for place, hits in enumerate(first.position_hits):
        of_tokens = [token.hits[place] for token in first.tokens if place < len(token.hits)]
        assert sum(hits) == sum(of_tokens) > 0
    assert sum(first.position_tokens) == 80
    assert isinstance(first.experts, Absent)
    assert "no experts" in first.experts.absent


def test_peaks_alone_leave_out_what_takes_slices(noisy_store: Path) -> None:
    seen = overview(noisy_store, "6", engine="peaks")
    store = seen.stores[0]
    for view in (store.curves, store.positions, store.quantisation):
        assert isinstance(view, Absent)
        assert "--engine peaks" in view.absent
        assert view.kind == "Not asked"
    assert not isinstance(store.saturation, Absent)
    html = seen._repr_html_()
    assert f">{store.sweep[0].outliers}</td>" in html
    assert f">{store.features[0].feature}</td>" in html
    assert ">curves, positions, quantisation</td>" in html


def test_it_opens_where_something_counts(noisy_store: Path) -> None:
    for magnitudes, opens, told in (
        ("2,6,7", "6", "magnitude 6"),
        ("2:7:2.5", "7", "magnitude 7, the nearest to 6"),
        ("58,60", "58", "magnitude 58: nothing counts at any of those asked"),
    ):
        asked = overview(noisy_store, magnitudes, engine="peaks").asked
        assert (asked.magnitudes[asked.chosen], asked.chosen_because) == (opens, told)
    seen = overview(noisy_store, "0.25,0.5,6,8", layers="100%", positions_range="1:2")
    counts = {point.magnitude: point.outliers for point in seen.stores[0].sweep}
    assert counts["6"] == 0
    largest = max((magnitude for magnitude, count in counts.items() if count), key=float)
    assert seen.asked.magnitudes[seen.asked.chosen] == largest
    assert seen.asked.chosen_because.endswith("the largest at which something counts: nothing does at 6")


def test_the_object_is_strict_json(noisy_store: Path) -> None:
    text = json_text(overview(noisy_store, "6,8", layers="0.50000000000000001"))
    asked = json.loads(text, parse_constant=lambda name: pytest.fail(name))["asked"]
    assert asked["magnitudes"] == ["6", "8"]
    share = asked["layer_shares"][asked["layer_share"]]
    assert (share["numerator"], share["denominator"]) == ("50000000000000001", "1" + 17 * "0")


def test_impossible_overviews_are_refused(noisy_store: Path) -> None:
    for arguments, told in (
        ({"magnitudes": "0:3:0.01"}, "the limit is 256"),
        ({"magnitudes": "6", "details": True}, "--details"),
        ({"magnitudes": "6,8", "chosen": 7}, "choose one of 6, 8"),
    ):
        with pytest.raises(InputError, match=told):
            overview(noisy_store, **arguments)  # type: ignore[arg-type]


def test_packing_is_leb128_in_zlib() -> None:
    values = [0, 1, 127, 128, 16383, 16384, 2**31, 2**35 - 1]
    text = packed([values, [], np.arange(300)])
    assert unpacked(text) == [values, [], list(range(300))]
    assert not set(text) & set("&<>\"'\\")
    for wrong in (-1, 2**35):
        with pytest.raises(ValueError, match="from 0"):
            packed([[wrong]])
