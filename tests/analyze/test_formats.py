"""What is printed reads back: strict JSON, CSV, Markdown, LaTeX, and a table that fits and names its definition."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze.formats import FORMATS, render
from analyze.thresholds.answers import answer
from analyze.thresholds.question import ask
from tests.analyze.conftest import Command
from tests.stores import write_store

MIXTURE = {
    "name": "glm_4.5|air",
    "total_parameters": 106_850_000_000,
    "active_parameters": 12_000_000_000,
    "experts": 128,
    "shared_experts": 1,
    "top_k": 8,
    "routing": "Sigmoid gating (loss-free balance)",
}


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture-of-experts model whose name needs escaping everywhere."""
    path = tmp_path_factory.mktemp("mixture") / "m.zarr"
    values = np.random.default_rng(5).normal(0, 6, (2, 3, 8, 20)).astype(np.float32)
    write_store(path, {"ln_attn": values, "ln_mlp": values}, model=MIXTURE)
    return path


def test_json_has_exactly_the_documented_members(analyze: Command, noisy_store: Path) -> None:
    _, out, _ = analyze("--store", noisy_store, "--magnitude", "6,6.5", "--format", "json")
    document = strict(out)
    assert list(document) == ["results", "notes"]
    assert document["notes"] == []
    first, second = document["results"]
    page = (Path(__file__).parents[2] / "docs/results.md").read_text()
    for name in (*first, *first["definition"], *first["features"][0], "hits", "ties", "quartiles"):
        assert f"`{name}`" in page, name
    assert (first["definition"]["magnitude"], second["definition"]["magnitude"]) == (6, 6.5)
    assert first["definition"]["preset"] == "moe-table"
    assert (first["definition"]["layers"], first["definition"]["positions"]) == ("25%", "6%")
    assert first["definition"]["sites"] == ["ln_attn", "ln_mlp"]
    assert first["answered_from"] == "peaks"
    assert first["details"] is None
    assert {feature["hits"] for feature in first["features"]} == {None}
    assert len(first["features"]) == first["outliers"] == sum(first["outliers_by_sequence"])
    keys = [(-f["critical_magnitude"], f["sequence"], f["feature"]) for f in first["features"]]
    assert keys == sorted(keys)


def test_json_says_what_the_result_says(noisy_store: Path) -> None:
    for result in (
        r for d in ("moe-table", "majority") for r in answer(noisy_store, ask("6,9", definition=d, details=True))
    ):
        (record,) = strict("".join(render([result], "json")))["results"]
        told = [vars(feature) for feature in result.features()]
        assert record["features"] == told
        assert record["outliers_per_sequence_interval"] == list(result.interval or ())
        assert record["mean_layer_percent"] == result.mean_layer_percent
        assert record["details"]["hits"] == (sum(f["hits"] for f in told))
        assert record["details"]["one_sided"] == sum(f["one_sided"] for f in told)
        assert record["definition"]["unit"] == ("feature" if told[0]["sequence"] is None else "sequence-feature")


def test_json_has_no_infinity(analyze: Command, tmp_path: Path) -> None:
    values = np.full((1, 1, 4, 1), -np.inf, np.float32)
    values[0, 0, 0] = 7
    write_store(tmp_path / "run.zarr", {"ln_attn": values})
    _, out, _ = analyze("--store", tmp_path / "run.zarr", "--details", "--format", "json")
    (result,) = strict(out)["results"]
    assert result["features"][0]["peak"] == "inf"
    assert result["details"]["quartiles"] == ["-inf", "-inf", "-inf"]
    assert result["nonfinite_values"] == 3


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_counted_is_an_answer_in_every_format(analyze: Command, noisy_store: Path, form: str) -> None:
    status, out, err = analyze("--store", noisy_store, "--magnitude", "1e9", "--details", "--format", form)
    assert (status, err) == (0, "")
    if form == "json":
        (result,) = strict(out)["results"]
        assert (result["outliers"], result["mean_layer_percent"], result["features"]) == (0, None, [])
        assert result["details"]["quartiles"] is None
    if form == "csv":
        (row,) = csv.DictReader(io.StringIO(out))
        assert (row["outliers"], row["mean_layer_percent"], row["ties"]) == ("0", "", "0")


@pytest.mark.parametrize(("given", "shown"), [((), None), (("--features", "0"), 0), (("--features", "3"), 3)])
def test_features_cut_the_json(analyze: Command, noisy_store: Path, given: tuple[str, ...], shown: int | None) -> None:
    _, out, _ = analyze("--store", noisy_store, "--format", "json", *given)
    (result,) = strict(out)["results"]
    assert len(result["features"]) == (result["outliers"] if shown is None else shown)
    assert result["outliers"] > 3


def test_csv_reads_back_as_the_numbers_of_the_json(analyze: Command, mixture: Path, noisy_store: Path) -> None:
    asked = ("--store", mixture, noisy_store, "--magnitude", "6,8", "--details", "--format")
    _, table, _ = analyze(*asked, "csv")
    _, document, _ = analyze(*asked, "json")
    rows, results = list(csv.DictReader(io.StringIO(table))), strict(document)["results"]
    assert len(rows) == len(results) == 4
    for row, result in zip(rows, results, strict=True):
        for name in ("outliers_per_sequence", "mean_layer_percent", "mean_position_percent", "perplexity"):
            assert float(row[name]) == result[name]
        low, high = float(row["outliers_per_sequence_low"]), float(row["outliers_per_sequence_high"])
        assert [low, high] == result["outliers_per_sequence_interval"]
        assert int(row["outliers"]) == result["outliers"]
        assert float(row["magnitude"]) == result["definition"]["magnitude"]
        assert row["model"] == result["model"]
        assert [float(row[f"quartile_{i}"]) for i in (1, 2, 3)] == result["details"]["quartiles"]
        assert int(row["total_hits"]) == result["details"]["hits"]
    assert (rows[0]["experts"], rows[0]["shared_experts"], rows[2]["experts"]) == ("128", "1", "")


def test_csv_with_features_has_a_row_for_each(analyze: Command, noisy_store: Path) -> None:
    _, out, _ = analyze("--store", noisy_store, "--magnitude", "6,9", "--features", "2", "--format", "csv")
    header, *lines = csv.reader(io.StringIO(out))
    assert len(set(header)) == len(header)
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    told = [f for result in answer(noisy_store, ask("6,9")) for f in result.features(2)]
    assert [(int(r["sequence"]), int(r["feature"]), float(r["peak"])) for r in rows] == [
        (f.sequence, f.feature, f.peak) for f in told
    ]
    _, none, _ = analyze("--store", noisy_store, "--magnitude", "1e9", "--features", "2", "--format", "csv")
    assert none.splitlines() == [",".join(header)]


def test_markdown_reads_back(analyze: Command, mixture: Path, noisy_store: Path) -> None:
    _, out, _ = analyze("--store", mixture, noisy_store, "--format", "markdown", "--features", "2")
    lines = [line for line in out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    header, rule, first, second, *_ = cells
    assert len(header) == len(rule) == len(first) == len(second) == 13
    row = dict(zip(header, first, strict=True))
    assert row["Model"] == r"glm\_4.5\|air"
    assert (row["Total"], row["Active"], row["Experts"], row["Top-k"]) == ("107B", "12B", "128+1 shared", "8")
    assert dict(zip(header, second, strict=True))["Experts"] == "-"
    assert (row["Perplexity"], row["Precision"]) == ("7.389", "bfloat16")
    (result,) = answer(mixture, ask("6"))
    assert row["Outliers"] == f"{result.outliers:,}"
    assert sum("at magnitude 6" in line for line in out.splitlines()) == 2


def test_latex_is_escaped_and_balanced(analyze: Command, mixture: Path) -> None:
    _, out, _ = analyze("--store", mixture, "--format", "latex", "--features", "2", "--details")
    assert r"glm\_4.5$|$air & 107B" in out
    assert r"$|$X$|$ $\geq$ 6 in at least 25\% of the cells" in out
    assert not re.search(r"(?<!\\)[%#&_^~](?<!\n%)", re.sub(r" & |^%.*$", "", out, flags=re.M))
    assert out.count(r"\begin{tabular}") == out.count(r"\end{tabular}") == 3
    for row in re.findall(r"^(.*) \\\\$", out, flags=re.M):
        assert len(re.split(r"(?<!\\)&", row)) in (11, 7, 8)


@pytest.mark.parametrize("columns", [100, 140])
@pytest.mark.parametrize("more", [(), ("--details",)])
def test_the_table_fits_the_terminal(
    analyze: Command, mixture: Path, noisy_store: Path, monkeypatch: pytest.MonkeyPatch, columns: int, more: Any
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = analyze("--store", mixture, noisy_store, *more)
    assert max(map(len, out.splitlines())) <= columns
    assert all(letters in re.sub(r"\s", "", out) for letters in ("107B", "loss-free", "128+1", "shared"))


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        ("moe-table", "(sequence, feature) pairs summed over 4 sequences; the same feature can count in each of them"),
        ("llm-int8", "Here: 3 of 10 cells (5 layers x ln_attn, ln_mlp), 5 of 80 tokens, 4 sequences"),
        ("llm-int8-block", "Here: 2 of 5 blocks (ln_attn, ln_mlp), 5 of 80 tokens, 4 sequences"),
        ("majority", "Here: 3 of 10 cells (5 layers x ln_attn, ln_mlp), 2 of 20 positions, 2 of 4 sequences"),
    ],
)
@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_a_number_comes_with_its_definition(
    analyze: Command, noisy_store: Path, definition: str, told: str, form: str
) -> None:
    _, out, _ = analyze("--store", noisy_store, "--definition", definition, "--format", form)
    plain = words(re.sub(r"\\([_%<>|])", r"\1", out))
    assert f"Definition {definition}: a feature counts" in plain
    assert told in plain
    assert "Answered from the stored peaks." in plain


def test_the_table_shows_ten_features_of_a_single_result_and_none_of_a_sweep(
    analyze: Command, noisy_store: Path
) -> None:
    def listed(*arguments: object) -> int:
        _, out, _ = analyze("--store", noisy_store, *arguments)
        return len(re.findall(r"^ +\d+ +\d+ +\d+\.\d%", out, flags=re.M))

    assert listed() == 10
    assert listed("--features", "0") == 0
    assert listed("--features", "4") == 4
    assert listed("--features", "all") == answer(noisy_store, ask("6"))[0].outliers > 10
    assert listed("--magnitude", "5,6") == 0
    assert listed("--magnitude", "5,6", "--features", "2") == 4


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (999, "999"),
        (134_515_008, "135M"),
        (1_280_000_000, "1.3B"),
        (6_919_161_856, "6.9B"),
        (7_000_000_000, "7B"),
        (30_532_122_624, "30.5B"),
        (106_852_245_504, "107B"),
        (999_960_000, "1B"),
        (99_960_000_000, "100B"),
        (1_026_470_000_000, "1T"),
    ],
)
def test_parameter_counts_read_as_in_papers(count: int, told: str) -> None:
    from analyze.tables.columns import parameters

    assert parameters(count) == told


def test_nonfinite_values_are_mentioned(analyze: Command, tmp_path: Path) -> None:
    values = np.ones((1, 1, 4, 2), np.float32)
    values[0, 0, :2] = np.nan
    write_store(tmp_path / "run.zarr", {"ln_attn": values})
    for form, told in (("table", "tiny: 4 values are NaN or infinite"), ("markdown", "tiny: 4 values")):
        _, out, _ = analyze("--store", tmp_path / "run.zarr", "--format", form)
        assert told in words(out)


def perplexity_of(path: Path, losses: Any, analyze: Command) -> tuple[dict[str, Any], str]:
    """The JSON result of a store with these losses, and its table."""
    write_store(path, {"ln_attn": np.ones((1, *losses.shape, 1), np.float32)}, token_nll=losses)
    (result,) = strict(analyze("--store", path, "--format", "json")[1])["results"]
    return result, words(analyze("--store", path)[1])


def test_a_model_of_losses_has_its_perplexity(analyze: Command, tmp_path: Path) -> None:
    """exp of the mean over all positions but the first, whatever is stored there."""
    result, table = perplexity_of(tmp_path / "r", np.array([[np.nan, 1, 2], [9, 3, 4]]), analyze)
    assert result["perplexity"] == pytest.approx(np.exp(2.5))
    assert (result["losses"], result["nonfinite_losses"]) == (4, 0)
    assert "perplexity" not in table


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_no_number_is_not_passed_over(analyze: Command, tmp_path: Path, bad: float) -> None:
    result, table = perplexity_of(tmp_path / "r", np.array([[np.nan, 1, 2], [np.nan, bad, 4]]), analyze)
    assert result["perplexity"] is None
    assert (result["losses"], result["nonfinite_losses"]) == (4, 1)
    assert "tiny: perplexity none: 1 of 4 losses is NaN or infinite." in table
    _, out, _ = analyze("--store", tmp_path / "r", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["perplexity"], row["nonfinite_losses"]) == ("", "1")


def test_losses_past_the_largest_float_are_an_infinite_perplexity(analyze: Command, tmp_path: Path) -> None:
    result, _ = perplexity_of(tmp_path / "r", np.full((1, 3), 710.0), analyze)
    assert result["perplexity"] == "inf"


def test_one_position_has_no_loss_and_no_perplexity(analyze: Command, tmp_path: Path) -> None:
    result, table = perplexity_of(tmp_path / "r", np.full((2, 1), np.nan), analyze)
    assert (result["perplexity"], result["losses"], result["nonfinite_losses"]) == (None, 0, 0)
    assert "perplexity" not in table


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
@pytest.mark.parametrize("magnitude", ["6", "5,6"])
def test_stores_of_one_model_are_told_apart(analyze: Command, tmp_path: Path, form: str, magnitude: str) -> None:
    """In rows, headings and footnotes: by the last part of the path, or by all of it where that is the same."""
    for place, features in (("a/one.zarr", 2), ("a/two.zarr", 3), ("b/one.zarr", 4)):
        values = np.full((1, 2, 4, features), 7, np.float32)
        values[0, 0, 0, 0] = np.inf
        write_store(tmp_path / place, {"ln_attn": values[:, : features - 1]})

    def shown(*stores: str) -> str:
        paths = [tmp_path / store for store in stores]
        _, out, _ = analyze(
            "--store", *paths, "--magnitude", magnitude, "--format", form, "--features", "1", "--details"
        )
        return words(out.replace("\\", ""))

    two = shown("a/one.zarr", "a/two.zarr")
    assert "tiny (one.zarr): 1 value is NaN or infinite" in two
    assert "tiny (two.zarr): 1 value is NaN or infinite" in two
    assert "tiny (two.zarr) at magnitude 6" in two
    assert "tiny (one.zarr): 1 of 1 cell (1 layer x ln_attn), 1 of 4 positions, 1 sequence." in two
    assert str(tmp_path) not in two
    assert "Store" in two
    assert f"tiny ({tmp_path}/b/one.zarr) at magnitude 6" in shown("a/one.zarr", "b/one.zarr")
    alone = shown("a/one.zarr")
    assert "tiny at magnitude 6" in alone
    assert "Store" not in alone


def test_a_name_turns_and_breaks_nothing_around_it(analyze: Command, tmp_path: Path) -> None:
    store = tmp_path / "turning.zarr"
    values = np.random.default_rng(5).normal(0, 6, (2, 2, 8, 20)).astype(np.float32)
    write_store(store, {"ln_attn": values}, model={"name": "turn\u202eed\x1b[31m\nred"})
    for view in (("--by", "layer"), ("--criteria", "massive")):
        assert not set(analyze("--store", store, "-q", *view)[1]) & {"\u202e", "\x1b"}, view
    for format_ in ("table", "csv", "latex", "markdown"):
        for view in ((), ("--info",), ("--saturation",), ("--details",)):
            status, out, _ = analyze("--store", store, "-q", "--format", format_, *view)
            assert status == 0
            assert not set(out) & {"\u202e", "\x1b"}, (format_, view)
    (row,) = csv.DictReader(io.StringIO(analyze("--store", store, "-q", "--format", "csv")[1]))
    assert row["model"] == "turn<U+202E>ed<U+001B>[31m<U+000A>red"
