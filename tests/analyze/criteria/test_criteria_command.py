"""The command: what --criteria and --by print, in every format, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from analyze.criteria import criterion_names
from analyze.evaluation.evaluate import evaluate_criteria
from analyze.formats import FORMATS
from tests.analyze.conftest import Command, Refusal
from tests.analyze.criteria.mixture import EXPERTS, LAYERS, Made, make_mixture
from tests.stores import write_store


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_mixture(tmp_path_factory.mktemp("mixture") / "m.zarr", residual=True)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("flags", [(), ("--by", "layer")])
def test_all_criteria_in_every_format(analyze: Command, mixture: Made, form: str, flags: tuple[str, ...]) -> None:
    status, out, err = analyze("--store", mixture.path, "--criteria", "all", *flags, "--format", form, "-q")
    assert (status, err) == (0, "")
    assert "Warning" not in out
    if form == "json":
        assert [table["table"] for table in json.loads(out)["tables"]] == list(criterion_names())


def test_numbers_are_those_of_the_python_interface(analyze: Command, mixture: Made) -> None:
    found = evaluate_criteria(mixture.path, "massive,variance,super-experts")
    _, out, _ = analyze("--store", mixture.path, "--criteria", "massive,variance,super-experts", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    massive = next(row for row in rows if (row["table"], row["tensor"]) == ("massive", "residual"))
    own = found["massive"].sel(tensor="residual")
    assert int(massive["sum_values"]) == int(own["values"].sum()) == 3 * (LAYERS - 1)
    assert int(massive["sum_values_token_median"]) == int(own.values_token_median.sum())
    assert (float(massive["largest"]), massive["features"]) == (3008.0, "4")  # 3000 in bfloat16
    assert float(massive["mean_median"]) == float(own["median"].mean())
    (experts,) = [row for row in rows if row["table"] == "super-experts"]
    assert (experts["sum_experts"], experts["largest_greatest"], experts["layer:expert"]) == ("1", "700.0", "1:3")
    assert experts["largest_greatest_layer"] == "1"


def test_a_row_for_each_layer(analyze: Command, mixture: Made) -> None:
    _, out, _ = analyze("--store", mixture.path, "--criteria", "kurtosis", "--by", "layer", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    found = evaluate_criteria(mixture.path, "kurtosis")["kurtosis"].kurtosis
    assert len(rows) == found.size
    for row in rows:
        assert float(row["kurtosis"]) == float(found.sel(tensor=row["tensor"], layer=int(row["layer"])))


def test_the_table_says_what_it_rests_on(analyze: Command, mixture: Made) -> None:
    _, out, _ = analyze("--store", mixture.path, "--criteria", "massive")
    text = " ".join(out.split())
    for part in ("Massive activations: tiny", "|x| >= 1000 * median |x|", "arXiv:2402.17762", "by token median"):
        assert part in text, part
    assert "Approximate: residual before ln_mlp, recovered" in text


def test_several_stores_have_tables_of_their_own(analyze: Command, mixture: Made, noisy_store: Path) -> None:
    _, out, _ = analyze("--store", mixture.path, noisy_store, "--criteria", "kurtosis", "--format", "json")
    assert [table["store"] for table in json.loads(out)["tables"]] == [str(mixture.path), str(noisy_store)]


def test_hits_by_layer_position_and_expert(analyze: Command, mixture: Made) -> None:
    found = {}
    for by in ("layer", "position", "expert"):
        status, out, err = analyze("--store", mixture.path, "--by", by, "--magnitude", "1,2", "--format", "csv", "-q")
        assert (status, err) == (0, "")
        found[by] = [row for row in csv.DictReader(io.StringIO(out)) if row["magnitude"] == "2"]
    hits = {site: int((np.abs(values) >= 2).sum()) for site, values in mixture.sites.items()}
    for by in ("layer", "position"):
        for site in ("ln_attn", "ln_mlp"):
            assert sum(int(row["hits"]) for row in found[by] if row["site"] == site) == hits[site]
    assert len(found["expert"]) == (LAYERS - 1) * (EXPERTS - 1)
    assert list(found["position"][0])[2:5] == ["magnitude", "site", "position"]


def test_people_see_later_positions_together_and_programs_each(analyze: Command, mixture: Made) -> None:
    _, table, _ = analyze("--store", mixture.path, "--by", "position", "--sites", "ln_mlp")
    assert [line.split()[1] for line in table.splitlines()[3:9]] == ["0", "1", "2", "3", "4-7", "8-9"]
    _, document, _ = analyze("--store", mixture.path, "--by", "position", "--sites", "ln_mlp", "--format", "json")
    assert [row["position"] for row in json.loads(document)["tables"][0]["rows"]] == list(range(10))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("by", ["layer", "position", "expert"])
def test_hits_in_every_format(analyze: Command, mixture: Made, form: str, by: str) -> None:
    status, out, _ = analyze("--store", mixture.path, "--by", by, "--magnitude", "2", "--format", form)
    assert status == 0
    assert out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--criteria", "kurtos"], "did you mean kurtosis?"),
        (["--criteria", ""], "--criteria '' has an empty name"),
        (["--criteria", "massive"], "--sites ln_attn,ln_mlp,residual"),
        (["--criteria", "super-experts"], "the model has no experts"),
        (["--criteria", "kurtosis", "--by", "position"], "write --by layer"),
        (["--criteria", "kurtosis", "--details"], "--details goes with a definition"),
        (["--by", "layer", "--features", "3"], "--features goes with a definition"),
        (["--by", "layer", "--definition", "majority"], "--definition goes with a definition"),
        (["--criteria", "kurtosis", "--magnitude", "7"], "--magnitude"),
        (["--by", "expert"], "--by expert reads expert_id"),
        (["--by", "head"], "invalid choice: 'head'"),
        (["--by", "layer", "--sites", "ln_q"], "has no site 'ln_q'"),
        (["--by", "layer", "--positions", "10%"], "--positions goes with a definition"),
        (["--by", "position", "--minimum-hits", "2"], "counts hits themselves"),
        (["--by", "layer", "--minimum-hits", "none"], "--minimum-hits 'none' is not a share"),
        (["--by", "layer", "--tokens", "special"], "has no special tokens at the chosen positions"),
        (["--criteria", "kurtosis", "--in-gain-units"], "stores no gain for ln_attn of layer 0"),
        (["--criteria", "kurtosis", "--tokens", "special"], "has no special tokens at the chosen positions"),
        (["--by", "layer", "--magnitude", "-1"], "is negative"),
    ],
)
def test_what_cannot_be_asked(refusal: Refusal, tmp_path: Path, flags: list[str], told: str) -> None:
    write_store(tmp_path / "s.zarr", {"ln_attn": np.ones((1, 1, 4, 3), np.float32)})
    assert told in refusal("--store", tmp_path / "s.zarr", *flags)


def test_criteria_in_units_of_gain_are_those_of_quotients(analyze: Command, mixture: Made, tmp_path: Path) -> None:
    quotients = {
        site: (values.astype(np.float64) / mixture.beside[f"{site}_gain"][:, None, None]).astype(np.float32)
        for site, values in mixture.sites.items()
        if site != "residual"
    }
    write_store(tmp_path / "quotients.zarr", quotients, "float32")
    asked = ("--criteria", "all", "--by", "layer", "--format", "json")
    _, out, _ = analyze("--store", mixture.path, *asked, "--in-gain-units")
    found = {table["table"]: table for table in json.loads(out)["tables"]}
    _, out, _ = analyze("--store", tmp_path / "quotients.zarr", *asked)
    told = {table["table"]: table for table in json.loads(out)["tables"]}
    assert set(found) == set(told)
    assert len(found) > 5
    for name, table in found.items():
        assert [{**row, "store": ""} for row in table["rows"]] == [{**row, "store": ""} for row in told[name]["rows"]]
        assert table["in_gain_units"] is True
    assert any("no norm's gain has scaled it" in line for line in found["kurtosis"]["left_out"])
    status, _, err = analyze("--store", mixture.path, "--criteria", "massive", "--in-gain-units")
    assert status == 2
    assert "is about the residual" in err


def test_the_page_of_results_has_every_field(analyze: Command, mixture: Made) -> None:
    page = (Path(__file__).parents[3] / "docs/results.md").read_text(encoding="utf-8")
    for by in ("layer", "position", "expert"):
        _, out, _ = analyze("--store", mixture.path, "--by", by, "--magnitude", "2", "--format", "json")
        (table,) = json.loads(out)["tables"]
        for name in (*table, *table["rows"][0]):
            assert f"`{name}`" in page, name
    _, out, _ = analyze("--store", mixture.path, "--criteria", "massive", "--format", "json")
    (table,) = json.loads(out)["tables"]
    for name in (*table, "tensor", "layer", "features"):
        assert f"`{name}`" in page, name
