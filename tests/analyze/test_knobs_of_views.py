"""Views with every knob of a definition, against the loops of the knobs' oracle on stores and on permuted stores."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from analyze import diff, emergence, null, overlap, saturation
from analyze.between.emergence import FROM_PEAKS, FROM_SLICES
from analyze.chance import asking, levels
from analyze.chance.null import _relabellings
from analyze.resources import Resources
from analyze.thresholds.question import Question, ask
from schemas.errors import InputError
from schemas.layout import MASK_SPECIAL
from tests.analyze.conftest import Command
from tests.analyze.knob_oracle import Asked, told
from tests.analyze.test_knobs import chosen_positions, exact, rounded_up, write
from tests.analyze.worlds import World
from tests.stores import write_store

LAYERS, SEQUENCES, POSITIONS, FEATURES = 3, 3, 5, 4
MAGNITUDES = ("2", "4.5", "6")
COMBINATIONS: tuple[dict[str, Any], ...] = (
    {"position_coverage": "mean"},
    {"position_coverage": "density", "layer_unit": "block"},
    {"position_coverage": "mean", "definition": "majority", "minimum_hits": 2},
    {"position_coverage": "density", "definition": "llm-int8", "tokens": "rest"},
    {"position_coverage": "mean", "definition": "llm-int8-block", "minimum_hits": "20%", "positions_range": "1:"},
    {"definition": "llm-int8", "minimum_hits": 4},
    {"definition": "llm-int8", "minimum_hits": "30%", "tokens": "rest", "layer_unit": "block"},
    {"tokens": "rest"},
    {"tokens": "rest", "minimum_hits": "40%", "definition": "majority"},
    {"tokens": "rest", "definition": "llm-int8", "positions_range": "1:"},
    {"position_coverage": "density", "in_gain_units": True, "layers_range": "1:"},
    {"position_coverage": "mean", "in_gain_units": True, "layer_unit": "block", "tokens": "rest"},
)
HALF = [pytest.param(knobs, marks=[pytest.mark.slow] * (i % 2)) for i, knobs in enumerate(COMBINATIONS)]
"""All of them, every second one among the slow tests."""


@dataclass(frozen=True)
class Made:
    """A store of two sites with special tokens at random and one sequence without others, and what is asked of it."""

    path: Path
    held: dict[str, Any]
    mask: Any
    gains: dict[str, Any]
    knobs: dict[str, Any]

    @property
    def asked(self) -> dict[str, Any]:
        return {"layers": "50%", "positions": "25%", **self.knobs}

    def expected(self, magnitude: str, layers: tuple[Any, ...] | None = None, **changes: Any) -> Any:
        """What the oracle says; ``layers``: labels (unit, feature) under which the data is permuted first."""
        question = ask(magnitude, **self.asked)
        gained = question.in_gain_units
        x = [exact(self.held[name], self.gains[name], gained) for name in self.held]
        if layers is not None:
            x = self._permuted(x, question, layers)
        asked = self._asked(question)
        return told(x, replace(asked, **changes))

    def _asked(self, question: Question) -> Asked:
        definition, minimum = question.definition, question.definition.minimum_hits
        knobs = {"tokens": "all", "positions_range": None, **self.knobs}
        magnitude = question.magnitudes[0]
        return Asked(
            magnitude=rounded_up(magnitude) if question.in_gain_units else magnitude,
            layers=question.layers.value,
            positions=question.positions.value,
            unit=definition.layer_unit,
            scope=definition.scope,
            share=definition.sequence_share,
            coverage=definition.position_coverage,
            minimum=minimum.count if minimum.share is None else minimum.share,
            layers_chosen=self._layers,
            chosen=chosen_positions(self.mask, knobs),
        )

    @property
    def _layers(self) -> tuple[int, ...]:
        return tuple(range(1, LAYERS)) if "layers_range" in self.knobs else tuple(range(LAYERS))

    def _permuted(self, x: list[Any], question: Question, labels: Any) -> list[Any]:
        """Feature f of a layer unit becomes feature ``labels[unit][f]``: units by site, then layer, or by layer."""
        block = question.definition.layer_unit == "block"
        moved = [[[[list(row) for row in q] for q in layer] for layer in site] for site in x]
        for s, (i, layer) in itertools.product(range(len(x)), enumerate(self._layers)):
            unit = labels[i] if block else labels[s * len(self._layers) + i]
            for q, p, f in itertools.product(range(SEQUENCES), range(POSITIONS), range(FEATURES)):
                moved[s][layer][q][p][unit[f]] = x[s][layer][q][p][f]
        return moved


@contextmanager
def made(knobs: dict[str, Any], seed: int) -> Iterator[Made]:
    random = np.random.default_rng(seed)
    shape = (LAYERS, SEQUENCES, POSITIONS, FEATURES)
    raised = np.where(np.arange(FEATURES) == 1, 4, 0)
    sites = {
        name: (np.round(random.normal(0, 3, shape) * 2) / 2 + raised).astype(np.float32)
        for name in ("ln_attn", "ln_mlp")
    }
    sites["ln_attn"][0, 1, 2, :2] = [np.nan, np.inf]
    mask = random.choice([0, 0, MASK_SPECIAL], (SEQUENCES, POSITIONS)).astype(np.uint8)
    mask[0, 2:], mask[-1] = 0, MASK_SPECIAL
    gains = {name: random.choice(np.array([1, -0.5, 1.25], np.float32), (LAYERS, FEATURES)) for name in sites}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zarr"
        held = write(path, World(sites, "bfloat16", 2), mask, gains)
        yield Made(path, held, mask, gains, knobs)


@pytest.mark.parametrize("knobs", COMBINATIONS, ids=str)
def test_the_null_is_the_definition_on_permuted_data(knobs: dict[str, Any]) -> None:
    """Draw by draw: of means and densities by both shares, of unions by layers; and the mean over those draws."""
    with made(knobs, 3) as of:
        found = null(of.path, MAGNITUDES, permutations=6, seed=5, **of.asked)
        units = len(of._layers) * (1 if ask("6", **of.asked).definition.layer_unit == "block" else 2)
        moves = "position_coverage" in knobs
        for t, magnitude in enumerate(MAGNITUDES):
            seen = of.expected(magnitude).units
            assert int(found.observed[1, t]) == len(seen)
            assert int(found.observed_unique[1, t]) == len({feature for _, feature, *_ in seen})
            free = {"positions": Fraction(1, 10**12), "coverage": "union"}
            draws: list[list[int]] = [[], []]
            unique: list[list[int]] = [[], []]
            for labels in _relabellings(units, FEATURES, 6, 5):
                for row, changes in enumerate((free, {})):
                    told_of = of.expected(magnitude, labels.tolist(), **changes).units
                    draws[row].append(len(told_of))
                    unique[row].append(len({feature for _, feature, *_ in told_of}))
            for row in (0, 1) if moves else (0,):
                assert float(found.drawn_mean[row, t]) == np.mean(draws[row])
                assert float(found.expected_unique[row, t]) == np.mean(unique[row])
                assert found.interval[row, t].values.tolist() == np.percentile(draws[row], [2.5, 97.5]).tolist()
                at_least = sum(n >= int(found.observed[row, t]) for n in draws[row])
                assert float(found.p_value[row, t]) == (1 + at_least) / 7
    majority = knobs.get("definition") == "majority"
    assert found.attrs["coverage_moves"] == ("with its layers" if moves else "as a whole")
    assert bool((found.expected[1] == found.drawn_mean[1]).all()) or not (moves or majority)


@pytest.mark.parametrize("knobs", COMBINATIONS, ids=str)
def test_overlap_and_growth_with_every_knob(knobs: dict[str, Any]) -> None:
    with made(knobs, 6) as of:
        growth = saturation(of.path, MAGNITUDES, orders=20, **of.asked)
        chosen = chosen_positions(of.mask, {"tokens": "all", "positions_range": None, **knobs})
        tokens = np.array([len(row) for row in chosen])
        assert growth.tokens.values.tolist() == [n * tokens.sum() / SEQUENCES for n in range(1, SEQUENCES + 1)]
        for t, magnitude in enumerate(MAGNITUDES):
            alone = [
                {
                    feature
                    for _, feature, *_ in of.expected(
                        magnitude, chosen=_only(chosen, q), scope="sequence", share=None
                    ).units
                }
                for q in range(SEQUENCES)
            ]
            if magnitude == "4.5":
                found = overlap(of.path, magnitude, **of.asked)
                assert found.features.values.tolist() == [len(s) for s in alone]
                assert found.both.values.tolist() == [[len(a & b) for b in alone] for a in alone]
            for n in range(1, SEQUENCES + 1):
                subsets = [len(set().union(*some)) for some in itertools.combinations(alone, n)]
                assert float(growth.unique_features[t, n - 1]) == float(Fraction(sum(subsets), len(subsets)))
                first = of.expected(magnitude, chosen=chosen[:n]).units
                assert int(growth.outliers[t, n - 1]) == len(first)


def _only(chosen: tuple[tuple[int, ...], ...], sequence: int) -> tuple[tuple[int, ...], ...]:
    return tuple(row if q == sequence else () for q, row in enumerate(chosen))


@pytest.mark.parametrize("knobs", HALF, ids=str)
def test_a_difference_with_every_knob(knobs: dict[str, Any]) -> None:
    """Which units count in which is the oracle's; what moved is the peak, or the critical magnitude where there is."""
    with made(knobs, 1) as one, made(knobs, 8) as other:
        found = diff(one.path, other.path, 4.5, **one.asked)
        was, now = ({(q, f) for q, f, *_ in of.expected("4.5").units} for of in (one, other))
    sequences = found.sequence.values.tolist() if "sequence" in found.coords else [None] * found.sizes["unit"]
    units = list(zip(sequences, found.feature.values.tolist(), strict=True))
    assert set(units) == was | now
    counts_in = ["both" if u in was & now else "first only" if u in was else "second only" for u in units]
    assert found.counts_in.values.tolist() == counts_in
    assert found.outliers.values.tolist() == [len(was), len(now)]
    kind = found.attrs["moved_of"]
    counted = "position_coverage" in knobs or (
        knobs.get("definition", "").startswith("llm") and "minimum_hits" in knobs
    )
    assert kind == ("peak" if counted else "critical magnitude")
    if counted and not knobs.get("in_gain_units"):
        for side, of in (("first", one), ("second", other)):
            for (q, f), value in zip(units, found[f"peak_{side}"].values.tolist(), strict=True):
                assert value == _peak(of, q, f)


def _peak(of: Made, sequence: int | None, feature: int) -> float:
    chosen = chosen_positions(of.mask, {"tokens": "all", "positions_range": None, **of.knobs})
    values = [
        abs(float(site[layer, q, p, feature]))
        for site in of.held.values()
        for layer in of._layers
        for q in ([sequence] if sequence is not None else range(SEQUENCES))
        for p in chosen[q]
    ]
    return max((v for v in values if not np.isnan(v)), default=0.0)


@pytest.mark.parametrize("knobs", HALF, ids=str)
def test_emergence_with_every_knob(knobs: dict[str, Any]) -> None:
    with made(knobs, 2) as of:
        question = ask("4.5", **of.asked)
        counted = len(of.expected("4.5").units)
        found = emergence([of.path], 4.5, **of.asked)
        detailed = emergence([of.path], 4.5, details=True, **of.asked)
        assert found.outliers.values.tolist() == detailed.outliers.values.tolist() == [counted]
        assert counted
        feature = int(found.largest_feature[0])
        assert detailed.largest_feature.values.tolist() == [feature]
        chosen = chosen_positions(of.mask, {"tokens": "all", "positions_range": None, **knobs})
        cells = []
        for name, site in of.held.items():
            for layer in of._layers:
                gain = of.gains[name][layer, feature] if question.in_gain_units else np.float32(1)
                own = [site[layer, q, p, feature] for q in range(SEQUENCES) for p in chosen[q]]
                cells.append(np.abs(np.array(own, np.float64) / gain))
        values = np.array(cells)
    if question.in_gain_units:  # quotients are rounded towards zero to float32
        near = values.astype(np.float32)
        values = np.where(near > values, np.nextafter(near, np.float32(0)), near).astype(np.float64)
    hits = values[values >= 4.5]
    largest = np.nanmax(values, axis=0)
    assert detailed.median_magnitude.values.tolist() == [np.median(hits)]
    assert found.median_magnitude.values.tolist() == [np.median(largest[largest >= 4.5])]
    assert (found.median_from[0], detailed.median_from[0]) == (FROM_PEAKS, FROM_SLICES)


@pytest.mark.parametrize("view", ["null", "saturation"])
def test_a_second_question_takes_neither_pass_nor_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    values = np.random.default_rng(3).normal(0, 4, (3, 3, 6, 5)).astype(np.float32)
    write_store(tmp_path / "run.zarr", {"ln_attn": values})
    time.sleep(0.15)
    made_anew: list[str] = []
    name = {"null": "_against_chance", "saturation": "_growth"}[view]
    original: Callable[..., Any] = getattr(asking, name)
    monkeypatch.setattr(asking, name, lambda *a: made_anew.append(name) or original(*a))
    call = {"null": null, "saturation": saturation}[view]
    for knobs in ({}, {"engine": "slices"}, {"position_coverage": "density", "definition": "llm-int8"}):
        first = call(tmp_path / "run.zarr", "6,2,4", **knobs)  # type: ignore[operator]
        again = call(tmp_path / "run.zarr", "6,2,4", **knobs)  # type: ignore[operator]
        anew = call(tmp_path / "run.zarr", "6,2,4", resources=Resources(cache=False), **knobs)  # type: ignore[operator]
        assert made_anew == [name] * 2
        xr.testing.assert_identical(first, again)
        xr.testing.assert_identical(first, anew)
        call(tmp_path / "run.zarr", "6,2,4", seed=1, **knobs)  # type: ignore[operator]
        assert made_anew == [name] * 3
        made_anew.clear()


def test_what_views_with_knobs_say_and_refuse(
    analyze: Command, noisy_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    density = ("--position-coverage", "density", "--positions", "1%")
    for view in ("--null", "--overlap", "--saturation", "--emergence"):
        status, out, err = analyze("--store", noisy_store, "-q", view, *density)
        assert (status, err) == (0, "")
        assert "(cell, position) pairs" in " ".join(out.split())
    assert "move with their layers" in " ".join(analyze("--store", noisy_store, "--null", "9", *density)[1].split())
    _, out, _ = analyze("--diff", noisy_store, noisy_store, *density)
    assert "Peak A" in out
    assert "there are no critical magnitudes" in " ".join(out.split())
    monkeypatch.setattr(levels, "MAX_COUNTS", 1000)
    told_of = r"--null with --position-coverage density at 3 magnitudes permutes 1,440 counts; .* ask for 2 at a time"
    with pytest.raises(InputError, match=told_of):
        null(noisy_store, "4,6,8", permutations=3, position_coverage="density")


def test_stores_with_a_floor_are_compared_with_knobs_that_take_the_slices(tmp_path: Path) -> None:
    """Above the floor, where critical magnitudes are known; one was asked from 0 on, and refused."""
    values = (np.random.default_rng(1).standard_t(3, (4, 3, 16, 8)) * 2).astype(np.float32)
    write_store(tmp_path / "a.zarr", {"ln_attn": values})
    write_store(tmp_path / "b.zarr", {"ln_attn": values}, floor="3")
    found = diff(tmp_path / "a.zarr", tmp_path / "b.zarr", 4, positions_range="1:")
    assert bool(found.all_equal)
    assert int(found.both) == int(found.outliers[0]) > 0
