"""Knobs worked by hand, what a result says of them in every format, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze.gain import quotient_patterns
from analyze.thresholds.answers import answer
from analyze.thresholds.knobs import parse_layers_range, parse_minimum_hits, parse_positions_range
from analyze.thresholds.question import ask
from schemas.dataset import open_run
from schemas.provenance import NormInfo
from tests.analyze.conftest import Command
from tests.stores import write_store

NORM = NormInfo(kind="rms", eps=1e-6, gain="weight", modules=["layers.0", "layers.1"])


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """That of docs/definitions.md, "Knobs", of gains 2 and 0.5."""
    values = np.array([[8, 9, 0, 0, 7], [6, 0, 0, 0, 0]], np.float32).reshape(2, 1, 5, 1)
    beside = {"ln_attn_gain": np.array([[2], [0.5]], np.float32), "ln_attn_rms": np.ones((2, 1, 5), np.float32)}
    write_store(tmp_path / "run.zarr", {"ln_attn": values}, norms={"ln_attn": NORM}, beside=beside)
    return tmp_path / "run.zarr"


def percents(path: Path, **knobs: Any) -> list[tuple[float, float]]:
    (result,) = answer(path, ask("6", layers="1%", positions="1%", **knobs))
    return [(f.layer_percent, f.position_percent) for f in result.features()]


def test_the_example_of_the_page(example: Path) -> None:
    for coverage, share in (("union", 60.0), ("mean", 40.0), ("density", 40.0)):
        assert percents(example, position_coverage=coverage) == [(100.0, share)]
    for coverage, share in (("union", 60.0), ("mean", 60.0), ("density", 40.0)):
        assert percents(example, position_coverage=coverage, minimum_hits=2) == [(50.0, share)]
    for coverage, share in (("union", 50.0), ("mean", 50.0), ("density", 25.0)):
        assert percents(example, position_coverage=coverage, positions_range="1:") == [(50.0, share)]
    assert percents(example, in_gain_units=True) == [(50.0, 20.0)]
    assert percents(example, in_gain_units=True, layers_range="0") == []
    (result,) = answer(example, ask("3.5", in_gain_units=True, details=True))
    (only,) = result.features()
    assert (only.peak, only.critical_magnitude, only.hits, result.ties) == (12.0, 12.0, 4, 1)


def test_the_mean_is_not_monotone(tmp_path: Path) -> None:
    """At 6 layers 0 and 1 have 4 and 1 of 5 positions, a mean of 50%; at 7 layer 0 alone: 80%."""
    values = np.array([[8, 8, 8, 8, 0], [6, 0, 0, 0, 0]], np.float32).reshape(2, 1, 5, 1)
    write_store(tmp_path / "run.zarr", {"ln_attn": values})
    results = answer(tmp_path / "run.zarr", ask("6,7,9", positions="60%", position_coverage="mean"))
    assert [result.outliers for result in results] == [0, 1, 0]
    assert [f.critical_magnitude for result in results for f in result.features()] == [None]


def test_a_block_is_hit_at_a_position_if_any_of_its_sites_is(tmp_path: Path) -> None:
    """Two sites, hit at positions 0 and 1, and 1 and 2, of five: the block has 3 hits, neither cell has."""
    sites = {"ln_attn": [7, 7, 0, 0, 0], "ln_mlp": [0, -7, 7, 0, 0]}
    write_store(tmp_path / "run.zarr", {s: np.array(v, np.float32).reshape(1, 1, 5, 1) for s, v in sites.items()})
    path = tmp_path / "run.zarr"
    assert percents(path, minimum_hits=3) == []
    assert percents(path, minimum_hits=3, layer_unit="block") == [(100.0, 60.0)]
    assert percents(path, minimum_hits=3, layer_unit="block", position_coverage="mean") == [(100.0, 60.0)]
    assert percents(path, layer_unit="block", position_coverage="density") == [(100.0, 40.0)]
    assert percents(path, minimum_hits="60%", layer_unit="block", scope="pooled") == [(100.0, 60.0)]


def test_quotients_are_rounded_towards_zero() -> None:
    random = np.random.default_rng(3)
    values = random.normal(0, 8, (4, 500)).astype(np.float32)
    gain = random.normal(0, 1, 500).astype(np.float32)
    values[0, :6], gain[:6] = [np.inf, np.nan, -0.0, 3e38, 1e-45, -6], [2, 1, -1, 1e-30, 7, -1]
    found = quotient_patterns(values, gain).view(np.float32)
    assert np.isinf(found[0, 0])
    assert np.isnan(found[0, 1])
    assert found[0, 2:6].tolist() == [0.0, float(np.finfo(np.float32).max), 0.0, 6.0]
    from fractions import Fraction

    for value, divisor, quotient in zip(values[1], gain, found[1], strict=True):
        true = abs(Fraction(float(value)) / Fraction(float(divisor)))
        above = np.nextafter(np.abs(quotient), np.float32(np.inf))
        assert Fraction(float(abs(quotient))) <= true < Fraction(float(above))


FLAGS = ("--position-coverage", "density", "--minimum-hits", "2%", "--layers-range", "0:", "--positions-range", "1:")


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json"])
def test_every_format_carries_the_knobs(analyze: Command, noisy_store: Path, form: str) -> None:
    status, out, _ = analyze("--store", noisy_store, "--positions", "1%", *FLAGS, "--format", form, "--features", "2")
    assert status == 0
    if form == "json":
        (result,) = json.loads(out)["results"]
        definition = result["definition"]
        names = ("position_coverage", "minimum_hits", "layers_range", "positions_range", "tokens", "in_gain_units")
        assert [definition[name] for name in names] == ["density", "2%", "0:", "1:", "all", False]
        assert definition["positions_by_sequence"] == [19] * 4
        assert definition["positions_needed"] is None
        assert result["features"][0]["critical_magnitude"] is None
        assert result["answered_from"] == "slices"
    elif form == "csv":
        row = next(csv.DictReader(io.StringIO(out)))
        assert (row["position_coverage"], row["minimum_hits"], row["positions_range"]) == ("density", "2%", "1:")
        assert (row["layers_range"], row["tokens"], row["in_gain_units"]) == ("0:", "all", "false")
    else:
        plain = " ".join(out.replace("\\", "").replace("{}", "").split())
        assert "(cell, position) pairs" in plain
        assert "looked at: layers 0: alone (5 of 5), positions 1: alone (19 of 20)" in plain
        assert "with --position-coverage density" in plain
        assert "the slices, which --position-coverage density and --positions-range 1: take" in plain
        assert "there are no critical magnitudes" in plain


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"minimum_hits": 0}, "--minimum-hits 0 is out of range"),
        ({"minimum_hits": 81, "scope": "pooled"}, "--minimum-hits 81 is out of range: 80 positions are looked at"),
        ({"minimum_hits": "3/2"}, "--minimum-hits '3/2' is more than the whole"),
        ({"minimum_hits": "many"}, "--minimum-hits 'many' is not a share"),
        ({"layers_range": "5:"}, "--layers-range 5: is out of range: .* has 5 layers, 0 to 4"),
        ({"layers_range": "2:9"}, "--layers-range 2:9 is out of range"),
        ({"layers_range": "3:2"}, "--layers-range '3:2' is empty"),
        ({"layers_range": "x"}, "--layers-range 'x' is not a range: write START:STOP"),
        ({"positions_range": "20:"}, "--positions-range 20: is out of range: .* has 20 positions, 0 to 19"),
        ({"positions_range": "1,2"}, "--positions-range '1,2' is not a range"),
        ({"tokens": "odd"}, "no class of tokens is called 'odd'; --tokens takes: all, special, first, rest"),
        ({"tokens": "special"}, "has no special tokens at the chosen positions"),
        ({"layer_unit": "row"}, "--layer-unit 'row' is not known; it takes: cell, block"),
        ({"definition": "majority", "scope": "pooled"}, "--scope pooled leaves no sequences for majority to count"),
        ({"engine": "peaks", "tokens": "first"}, "--engine peaks cannot answer --tokens first, which takes the slices"),
        ({"in_gain_units": True}, "stores no gain for ln_attn of layer 0, which --in-gain-units divides by"),
        ({"magnitude": "1:9:0.01", "position_coverage": "mean"}, "--position-coverage mean at .* the limit is 256"),
    ],
)
def test_what_is_refused(noisy_store: Path, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        answer(noisy_store, ask(knobs.pop("magnitude", "6"), **knobs))


def test_gains_of_zero_and_floors_in_their_units(tmp_path: Path) -> None:
    values = {"ln_attn": np.full((2, 1, 5, 2), 7, np.float32)}
    beside = {"ln_attn_gain": np.array([[2, 0.5], [1, 0]], np.float32), "ln_attn_rms": np.ones((2, 1, 5), np.float32)}
    write_store(tmp_path / "run.zarr", values, norms={"ln_attn": NORM}, beside=beside, floor="3")
    with pytest.raises(ValueError, match=r"that of ln_attn of layer 1 is 0 at feature 1 .* leave out --in-gain-units"):
        answer(tmp_path / "run.zarr", ask("6", in_gain_units=True))
    with pytest.raises(ValueError, match=r"--magnitude 5.5 in units of a gain of 0.5 is 2.75, below 3"):
        answer(tmp_path / "run.zarr", ask("5.5", in_gain_units=True, layers_range="0"))
    (result,) = answer(tmp_path / "run.zarr", ask("6", in_gain_units=True, layers_range="0"))
    assert [(f.feature, f.peak) for f in result.features()] == [(1, 14.0)]
    with pytest.raises(ValueError, match=r"below 3, .*which --tokens first reads"):
        answer(tmp_path / "run.zarr", ask("2", tokens="first"))


def test_a_store_of_peaks_names_the_knob_and_the_capture(tmp_path: Path) -> None:
    write_store(tmp_path / "run.zarr", {"ln_attn": np.full((2, 1, 5, 2), 7, np.float32)}, slices=False)
    for knobs, flag in (({"tokens": "first"}, "--tokens first"), ({"minimum_hits": 2}, "--minimum-hits 2")):
        with pytest.raises(ValueError, match=f"no slices of 'ln_attn', which {flag} reads.*--keep slices"):
            answer(tmp_path / "run.zarr", ask("6", **knobs))  # type: ignore[arg-type]
    assert answer(tmp_path / "run.zarr", ask("6", layer_unit="block", scope="pooled"))[0].outliers == 2


def test_hits_by_layer_and_position_of_a_part(analyze: Command, noisy_store: Path) -> None:
    part = ("--layers-range", "0,3:", "--positions-range", "1:", "--tokens", "rest")
    _, whole, _ = analyze("--store", noisy_store, "--by", "position", "--format", "json")
    status, out, _ = analyze("--store", noisy_store, "--by", "layer", *part, "--format", "json")
    assert status == 0
    (table,) = json.loads(out)["tables"]
    assert table["notes"][-1] == "Looked at: layers 0,3:, positions 1:, tokens of class rest alone."
    assert (table["layers_range"], table["positions_range"], table["tokens"]) == ("0,3:", "1:", "rest")
    run = open_run(noisy_store)
    for row in table["rows"]:
        values = np.abs(run[row["site"]].isel(layer=row["layer"], position=slice(1, None)).values)
        assert row["layer"] in (0, 3, 4)
        assert row["hits"] == int((values >= 6).sum())
    assert len(table["rows"]) == 6
    assert json.loads(whole)["tables"][0]["notes"][-1] != table["notes"][-1]
    status, _, told = analyze("--store", noisy_store, "--by", "layer", "--scope", "pooled")
    assert status == 2
    assert "--scope goes with a definition of outliers, not with --by" in told
    status, _, told = analyze("--store", noisy_store, "--criteria", "kurtosis", "--layer-unit", "block")
    assert status == 2
    assert "--layer-unit goes with a definition of outliers, not with --criteria" in told
    status, out, _ = analyze("--store", noisy_store, "--criteria", "kurtosis", "--positions-range", "1:")
    assert status == 0
    assert "Looked at: positions 1: alone." in " ".join(out.split())
    assert analyze("--store", noisy_store, "--criteria", "kurtosis", "--in-gain-units")[0] == 2


def test_ranges_and_minima_as_they_are_typed() -> None:
    assert parse_layers_range(" 4: , 0").of(6, "here") == (0, 4, 5)
    assert parse_positions_range(":3").of(6, "here") == (0, 1, 2)
    assert parse_minimum_hits("2.5%").of(2048) == 52
    assert parse_minimum_hits("1").text == "1"
