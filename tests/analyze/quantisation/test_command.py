"""--quantisation: what it prints in each format, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from analyze import quantisation_errors
from analyze.formats import FORMATS as OUTPUT_FORMATS
from analyze.quantisation.formats import FORMATS
from tests.analyze.conftest import Command, Refusal
from tests.analyze.criteria.mixture import make_mixture
from tests.stores import write_store


@pytest.mark.parametrize("form", OUTPUT_FORMATS)
def test_every_output_format_says_what_it_is(analyze: Command, noisy_store: Path, form: str) -> None:
    status, out, err = analyze("--store", noisy_store, "--quantisation", "--format", form, "-q")
    assert (status, err) == (0, "")
    for name in FORMATS:
        assert name in " ".join(out.split()).replace("- ", "-")
    if form != "csv":  # which has rows alone
        assert "not perplexity" in " ".join(out.split())


def test_csv_and_json_hold_each_layer_as_the_dataset_does(analyze: Command, noisy_store: Path) -> None:
    asked = ("--store", noisy_store, "--quantisation", "nvfp4,llm-int8", "--alpha", "5.5", "--sites", "ln_mlp")
    found = quantisation_errors(noisy_store, ["llm-int8", "nvfp4"], alpha=5.5).sel(site="ln_mlp")
    _, out, _ = analyze(*asked, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    _, document, _ = analyze(*asked, "--format", "json")
    tables = {table["table"]: table["rows"] for table in json.loads(document)["tables"]}
    for records in ([row for row in rows if row["table"] == "quantisation"], tables["quantisation"]):
        assert len(records) == 2 * 5
        for record in records:
            cell = found.sel(format=record["format"], layer=int(record["layer"]))
            for suffix, positions in (("", "all"), ("_without_0", "without 0")):
                at = cell.sel(positions=positions)
                assert float(record[f"sqnr_db{suffix}"]) == float(at.sqnr_db)
                assert float(record[f"relative_error_percent{suffix}"]) == 100 * float(at.relative_error)
                assert float(record[f"flushed_percent{suffix}"]) == 100 * float(at.flushed)
                assert float(record[f"clipped_percent{suffix}"]) == 100 * float(at.clipped)
    for records in ([row for row in rows if row["table"] == "outlier_columns"], tables["outlier_columns"]):
        assert len(records) == 5 * found.sizes["tokens_per_call"]
        for record in records:
            at = found.sel(layer=int(record["layer"]), tokens_per_call=int(record["tokens_per_call"]))
            assert float(record["outlier_columns"]) == float(at.outlier_columns)
            assert int(record["calls"]) == int(at.calls)


def test_a_single_format_shows_each_layer_and_several_the_median(analyze: Command, noisy_store: Path) -> None:
    found = quantisation_errors(noisy_store).sel(positions="all", site="ln_attn")
    _, one, _ = analyze("--store", noisy_store, "--quantisation", "mxfp4")
    lines = [line.split() for line in one.splitlines() if line.split()[:2] == ["mxfp4", "ln_attn"]]
    assert [line[2] for line in lines] == ["0", "1", "2", "3", "4"]
    assert [line[3] for line in lines] == [f"{value:.1f}" for value in found.sqnr_db.sel(format="mxfp4").values]
    _, several, _ = analyze("--store", noisy_store, "--quantisation", "mxfp4,nvfp4")
    (line,) = [line.split() for line in several.splitlines() if line.split()[:2] == ["nvfp4", "ln_attn"]]
    sqnr = found.sqnr_db.sel(format="nvfp4").values
    assert line[2] == f"{np.median(sqnr):.1f}"
    assert line[3:5] == [f"{sqnr.min():.1f}", f"({sqnr.argmin()})"]


def test_two_stores_of_one_model_are_told_apart(analyze: Command, noisy_store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    write_store(other, {"ln_attn": np.ones((1, 1, 2, 3), np.float32)})
    _, out, _ = analyze("--store", noisy_store, other, "--quantisation", "mxfp4", "--format", "csv")
    runs = {row["run"] for row in csv.DictReader(io.StringIO(out))}
    assert runs == {"tiny (noisy.zarr)", "tiny (other.zarr)"}


def test_an_exact_store_and_one_of_zeros(analyze: Command, tmp_path: Path) -> None:
    values = np.ones((2, 1, 3, 4), np.float32)
    values[1] = 0
    write_store(tmp_path / "a.zarr", {"ln_attn": values})
    status, out, _ = analyze("--store", tmp_path / "a.zarr", "--quantisation", "--format", "json")
    assert status == 0
    rows = [row for row in json.loads(out)["tables"][0]["rows"] if row["format"] == "int8-absmax-token"]
    assert [(row["sqnr_db"], row["relative_error_percent"]) for row in rows] == [("inf", 0.0), (None, None)]
    assert analyze("--store", tmp_path / "a.zarr", "--quantisation")[0] == 0


def test_values_that_are_not_finite_are_counted(analyze: Command, tmp_path: Path) -> None:
    values = np.ones((1, 1, 3, 4), np.float32)
    values[0, 0, 1] = (np.nan, np.inf, -np.inf, 3)
    write_store(tmp_path / "a.zarr", {"ln_attn": values})
    status, out, _ = analyze("--store", tmp_path / "a.zarr", "--quantisation", "int8-absmax-token")
    assert status == 0
    assert "3 values NaN or infinite: in no scale and no sum." in out


def test_errors_of_a_part_are_those_of_a_store_of_that_part(analyze: Command, tmp_path: Path) -> None:
    made = make_mixture(tmp_path / "whole.zarr")
    part = {site: values[1:3, :, 2:] for site, values in made.sites.items()}
    gains = {site: made.beside[f"{site}_gain"][1:3, None, None] for site in part}
    write_store(tmp_path / "part.zarr", part)
    quotients = {s: (v.astype(np.float64) / gains[s].astype(np.float64)).astype(np.float32) for s, v in part.items()}
    write_store(tmp_path / "quotients.zarr", quotients, "float32")
    flags = ("--layers-range", "1:3", "--positions-range", "2:", "--tokens", "rest")
    for units, other in (((), "part.zarr"), (("--in-gain-units",), "quotients.zarr")):
        asked = ("--quantisation", "--format", "json")
        status, whole, _ = analyze("--store", made.path, *asked, *flags, *units)
        (_, alone, _) = analyze("--store", tmp_path / other, *asked)
        assert status == 0
        for one, two in zip(json.loads(whole)["tables"], json.loads(alone)["tables"], strict=True):
            assert "Looked at: layers 1:3, positions 2:, tokens of class rest alone." in one["notes"]
            assert one.get("in_gain_units", False) == bool(units)
            assert len(one["rows"]) == len(two["rows"]) > 0
            for a, b in zip(one["rows"], two["rows"], strict=True):
                for name in a:  # position 0 is another in the part: sums are added up in another order
                    if not name.endswith("_without_0"):
                        told = b[name] + 1 if name == "layer" else b[name]
                        assert a[name] == (pytest.approx(told, rel=1e-12) if isinstance(told, float) else told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--quantisation", "mxfp5"], "'mxfp5'; nearest: mxfp4"),
        (["--quantisation", "FP8"], "nearest: fp8-e4m3-tensor, fp8-e4m3-token, fp8-e5m2-tensor, fp8-e5m2-token"),
        (["--quantisation", "fp9"], "nearest: fp8-e4m3-tensor, fp8-e4m3-token, fp8-e5m2-tensor, fp8-e5m2-token"),
        (["--quantisation", "int4"], "nearest: int8-absmax-tensor, "),
        (["--quantisation", "zzz"], "known: int8-absmax-tensor, "),
        (["--quantisation", "--in-gain-units"], "stores no gain for ln_attn of layer 0"),
        (["--quantisation", "--tokens", "special"], "has no special tokens at the chosen positions"),
        (["--quantisation", "--layers-range", "9"], "--layers-range 9 is out of range"),
        (["--quantisation", "awq"], "known: int8-absmax-tensor, "),
        (["--quantisation", "mxfp4,"], "no quantisation format is called ''"),
        (["--quantisation", "--alpha", "six"], "--alpha 'six' is no threshold"),
        (["--quantisation", "--alpha", "0"], "--alpha '0' is no threshold"),
        (["--quantisation", "--alpha", "-6"], "--alpha '-6' is no threshold"),
        (["--quantisation", "--group-size", "0"], "--group-size '0' is no number of features"),
        (["--quantisation", "--group-size", "1.5"], "--group-size '1.5' is no number of features"),
        (["--quantisation", "--sites", "ln_q"], "has no site 'ln_q'"),
        (["--quantisation", "--magnitude", "5"], "--magnitude is another question than --quantisation"),
        (["--quantisation", "--criteria", "kurtosis"], "--criteria is another question than --quantisation"),
        (["--alpha", "5"], "--alpha goes with --quantisation"),
        (["--group-size", "5"], "--group-size goes with --quantisation"),
    ],
)
def test_input_that_cannot_be_used(refusal: Refusal, noisy_store: Path, arguments: list[str], told: str) -> None:
    assert told in refusal("--store", noisy_store, *arguments)


@pytest.mark.parametrize("kept", [{"slices": False}, {"floor": "4"}])
def test_stores_without_all_values_are_refused(refusal: Refusal, tmp_path: Path, kept: dict[str, object]) -> None:
    write_store(tmp_path / "a.zarr", {"ln_attn": np.ones((1, 1, 2, 3), np.float32)}, **kept)  # type: ignore[arg-type]
    assert "--keep slices" in refusal("--store", tmp_path / "a.zarr", "--quantisation")


def test_a_partial_store_takes_the_flag(analyze: Command, tmp_path: Path) -> None:
    write_store(tmp_path / "a.zarr", {"ln_attn": np.ones((2, 3, 2, 3), np.float32)}, complete=False)
    status, _, err = analyze("--store", tmp_path / "a.zarr", "--quantisation", "mxfp4")
    assert status == 2
    assert "--partial" in err
    status, out, _ = analyze("--store", tmp_path / "a.zarr", "--quantisation", "mxfp4", "--partial")
    assert status == 0
    assert "mxfp4" in out
