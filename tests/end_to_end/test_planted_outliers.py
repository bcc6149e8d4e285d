"""Outliers planted in a checkpoint are found in its capture, exactly those, in exactly the cells where they were."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze.cli import main as analyze
from capture.cli import main as capture
from schemas import Run
from tests.checkpoints import ARCHITECTURES, Cell, in_turn, planted, planted_cells, write_checkpoint
from tests.stores import decoded_values

NAMES = (
    "olmoe", "gpt_oss", "qwen3_moe", "mixtral", "qwen3_next", "glm4_moe",
    "qwen3", "gpt2", "opt", "gemma3", "olmo2", "gpt_neox",
)  # fmt: skip
ATTN_FEATURE, MLP_FEATURE = 5, 17
SEQUENCES, POSITIONS = 3, 40
CELLS = 8
MAGNITUDE = 6

PROSE = (
    "The ferry left at noon, as it had for 31 years, with nine passengers and a dog. Nobody spoke. Past the second "
    "buoy the water turned from green to slate, and the captain, who was writing a letter, did not look up. "
) * 3


@dataclass(frozen=True)
class Planted:
    """A captured checkpoint, and the cells in which each planted feature must show."""

    run: Run
    cells: dict[int, frozenset[Cell]]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Planted]:
    """Function from an architecture to its capture, with two features raised in two cells each."""

    @functools.cache
    def made(name: str) -> Planted:
        folder = tmp_path_factory.mktemp(name)
        (folder / "prose.txt").write_text(PROSE)
        edit = in_turn(planted(name, ATTN_FEATURE, [0, 2], "ln_attn"), planted(name, MLP_FEATURE, [1, 3], "ln_mlp"))
        model = write_checkpoint(folder / "model", name, edit=edit)
        store = folder / "run.zarr"
        options = f"--sequences {SEQUENCES} --length {POSITIONS} --batch-size 2 --device cpu -q".split()
        assert capture([
            "--model", str(model), "--store", str(store), "--text", str(folder / "prose.txt"), *options
        ]) == 0  # fmt: skip
        cells = {
            ATTN_FEATURE: planted_cells(name, [0, 2], "ln_attn"),
            MLP_FEATURE: planted_cells(name, [1, 3], "ln_mlp"),
        }
        return Planted(Run(store), cells)

    return made


def answered(run: Run, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """The one result that ``analyze`` gives as JSON."""
    capsys.readouterr()
    assert analyze(["--store", str(run.path), "--format", "json", "-q", *options]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    return result  # type: ignore[no-any-return]


def values_of(run: Run, site: str) -> np.ndarray[Any, Any]:
    """(layer, sequence, position, feature) as float32."""
    return decoded_values(run.read(run.info.site_array(site)), run.info.bits)


def test_the_architectures_are_those_promised() -> None:
    assert len(set(NAMES)) == 12
    for name in NAMES:
        assert ARCHITECTURES[name].layer_count * 2 == CELLS
        assert not ARCHITECTURES[name].one_norm_for_both


@pytest.mark.parametrize("name", NAMES)
def test_stored_peaks_reach_the_magnitude_where_it_was_planted(name: str, captured: Callable[[str], Planted]) -> None:
    made = captured(name)
    expected = {(cell, feature) for feature, cells in made.cells.items() for cell in cells}
    for sequence in range(SEQUENCES):
        found = set()
        for site in ("ln_attn", "ln_mlp"):
            peaks = decoded_values(made.run.read(f"{site}_layer_peak"), made.run.info.bits)[:, sequence]
            for layer, row in enumerate(peaks):
                found |= {((site, layer), feature) for feature, peak in enumerate(row) if peak >= MAGNITUDE}
        assert found == expected


@pytest.mark.parametrize("engine", ["peaks", "slices"])
@pytest.mark.parametrize("name", NAMES)
def test_analyze_finds_exactly_the_planted_features(
    name: str, engine: str, captured: Callable[[str], Planted], capsys: pytest.CaptureFixture[str]
) -> None:
    made = captured(name)
    result = answered(made.run, capsys, "--magnitude", str(MAGNITUDE), "--features", "all", "--engine", engine)
    assert result["answered_from"] == engine
    assert result["definition"]["preset"] == "moe-table"
    assert (result["outliers"], result["unique_features"]) == (2 * SEQUENCES, 2)
    assert result["outliers_per_sequence"] == 2
    hits = {site: np.abs(values_of(made.run, site)) >= MAGNITUDE for site in ("ln_attn", "ln_mlp")}
    union = hits["ln_attn"].any(axis=0) | hits["ln_mlp"].any(axis=0)  # sequence, position, feature
    found = {(each["sequence"], each["feature"]): each for each in result["features"]}
    assert found.keys() == {(sequence, feature) for sequence in range(SEQUENCES) for feature in made.cells}
    for (sequence, feature), about in found.items():
        assert about["layer_percent"] == 100 * len(made.cells[feature]) / CELLS
        assert about["position_percent"] == pytest.approx(100 * union[sequence, :, feature].mean(), rel=1e-12)
        peak = max(float(np.abs(values_of(made.run, site)[:, sequence, :, feature]).max()) for site in hits)
        assert about["peak"] == peak
        assert MAGNITUDE <= about["critical_magnitude"] <= peak


@pytest.mark.parametrize("name", NAMES)
def test_counts_change_exactly_at_the_shares_and_magnitudes_of_the_planted(
    name: str, captured: Callable[[str], Planted], capsys: pytest.CaptureFixture[str]
) -> None:
    made = captured(name)
    shares = {feature: Fraction(len(cells), CELLS) for feature, cells in made.cells.items()}
    for share in sorted(set(shares.values())):
        reached = sum(each >= share for each in shares.values())
        assert answered(made.run, capsys, "--layers", str(share))["unique_features"] == reached
        if share < 1:  # OLMo 2 carries a feature through every cell
            beyond = sum(each > share for each in shares.values())
            above = share + Fraction(1, 10**6)
            assert answered(made.run, capsys, "--layers", str(above))["unique_features"] == beyond
    features = answered(made.run, capsys, "--features", "all")["features"]
    critical = max(each["critical_magnitude"] for each in features)
    assert answered(made.run, capsys, "--magnitude", repr(critical))["outliers"] >= 1
    assert answered(made.run, capsys, "--magnitude", repr(critical * (1 + 1e-9)))["outliers"] == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "olmo2"])
@pytest.mark.parametrize(("site", "feature"), [("ln_attn", ATTN_FEATURE), ("ln_mlp", MLP_FEATURE)])
def test_each_site_shows_its_own_feature(
    name: str, site: str, feature: int, captured: Callable[[str], Planted], capsys: pytest.CaptureFixture[str]
) -> None:
    result = answered(captured(name).run, capsys, "--sites", site, "--features", "all")
    assert {each["feature"] for each in result["features"]} == {feature}
    assert {each["layer_percent"] for each in result["features"]} == {50.0}


def test_a_checkpoint_without_planting_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prose.txt").write_text(PROSE)
    model = write_checkpoint(tmp_path / "model", "olmoe")
    flags = {"--model": model, "--store": tmp_path / "run.zarr", "--text": tmp_path / "prose.txt", "--length": 16}
    assert capture([*(str(part) for flag in flags.items() for part in flag), "--sequences", "2", "-q"]) == 0
    result = answered(Run(tmp_path / "run.zarr"), capsys, "--layers", "1%", "--positions", "1%")
    assert (result["outliers"], result["unique_features"], result["features"]) == (0, 0, [])
