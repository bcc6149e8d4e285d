"""Criteria of whole stores against the oracle: which tensors, over which tokens, and what a store cannot answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from analyze.criteria import criterion_names, load_criterion
from analyze.evaluation.criterion_tables import criterion_tables
from analyze.evaluation.evaluate import evaluate_criteria
from analyze.statistics.selection import Selection
from schemas.errors import CorruptChunkError, InputError, StoreError
from tests.analyze.criteria import oracle
from tests.analyze.criteria.mixture import LAYERS, SEQUENCES, Made, make_mixture
from tests.stores import write_store

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_mixture(tmp_path_factory.mktemp("mixture") / "m.zarr", encoding="float32")


@pytest.fixture(scope="module")
def with_residual(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_mixture(tmp_path_factory.mktemp("mixture") / "r.zarr", residual=True, position_chunk=4)


def test_criteria_may_be_given_by_their_names(mixture: Made) -> None:
    found = evaluate_criteria(mixture.path, ("kurtosis", "massive"))
    text = evaluate_criteria(mixture.path, "kurtosis,massive")
    assert list(found) == list(text) == ["kurtosis", "massive"]
    assert all(found[name].identical(text[name]) for name in text)
    assert set(evaluate_criteria(mixture.path, ["all"])) == set(evaluate_criteria(mixture.path))
    for none in ((), "", ("kurtosis", ""), (6,)):
        with pytest.raises(InputError, match="empty name"):
            evaluate_criteria(mixture.path, none)  # type: ignore[arg-type]


def tensor(made: Made, label: str, layer: int, sequence: int) -> Array:
    if label == "residual":
        return made.residual(layer, sequence)
    if label.startswith("residual before "):
        return made.recovered(label.removeprefix("residual before "), layer, sequence).astype(np.float32)
    return made.sites[label][layer, sequence]


def pooled(made: Made, label: str, layer: int) -> Any:
    return np.concatenate([tensor(made, label, layer, sequence) for sequence in range(SEQUENCES)]).tolist()


def each(made: Made, label: str, layer: int) -> list[Any]:
    return [tensor(made, label, layer, sequence).tolist() for sequence in range(SEQUENCES)]


RECOVERED = ["residual before ln_attn", "residual before ln_mlp"]
OUTPUTS = ["ln_attn", "ln_mlp"]


def check_against_the_oracle(made: Made, residuals: list[str]) -> None:
    found = evaluate_criteria(made.path)
    assert list(found) == list(criterion_names())
    both = [*residuals, *OUTPUTS]
    for name in ("kurtosis", "max-median", "infinity-norm", "top-values"):
        assert found[name].tensor.values.tolist() == both
        assert found[name].kind.values.tolist() == ["residual"] * len(residuals) + ["norm output"] * 2
    for name in ("systematic-channels", "variance", "z-score", "channel-magnitudes"):
        assert found[name].tensor.values.tolist() == OUTPUTS
    assert found["massive"].tensor.values.tolist() == residuals
    for layer in range(LAYERS):
        for label in both:
            x, at = pooled(made, label, layer), {"tensor": label, "layer": layer}
            close(found["kurtosis"].kurtosis.sel(at), oracle.kurtosis(x))
            close(found["max-median"].ratio.sel(at), oracle.max_median(x))
            own = each(made, label, layer)
            norm = found["infinity-norm"].sel(at)
            close(norm.largest, [oracle.infinity_norm(q) for q in own])
            close(norm.kurtosis, [oracle.value_kurtosis(q) for q in own])
            close(norm.mean_kurtosis, np.mean([oracle.value_kurtosis(q) for q in own]))
            top = found["top-values"].sel(at)
            close(top.top, [oracle.top(q) for q in own])
            middle = [float(oracle.median([abs(v) for row in q for v in row])) for q in own]
            close(top["median"], middle)
            close(top.middle, np.mean(middle))
        for label in OUTPUTS:
            x, at = pooled(made, label, layer), {"tensor": label, "layer": layer}
            assert flagged(found["systematic-channels"].outlier.sel(at)) == oracle.systematic_channels(x)
            assert flagged(found["variance"].outlier.sel(at)) == oracle.variance_outliers(x)
            z = oracle.z_scores(x)
            close(found["z-score"].z.sel(at), z)
            assert flagged(found["z-score"].outlier.sel(at)) == [j for j, value in enumerate(z) if value > 3]
            columns = [[abs(v) for v in column] for column in oracle.columns(x)]
            close(found["channel-magnitudes"].largest.sel(at), [max(column) for column in columns])
            close(found["channel-magnitudes"]["mean"].sel(at), [float(np.mean(column)) for column in columns])
        for label in residuals:
            own, massive = each(made, label, layer), found["massive"].sel(tensor=label, layer=layer)
            for end, per_token in (("", False), ("_token_median", True)):
                hits = [oracle.massive(q, per_token) for q in own]
                assert massive[f"values{end}"] == sum(map(len, hits))
                assert massive[f"tokens{end}"] == sum(len({t for t, _ in q}) for q in hits)
                counts = np.bincount([j for q in hits for _, j in q], minlength=massive.sizes["feature"])
                assert massive[f"features{end}"].values.tolist() == counts.tolist()


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.values, np.asarray(expected, np.float64), rtol=1e-9, atol=1e-12)


def flagged(mask: Any) -> list[int]:
    return list(np.flatnonzero(mask.values).tolist())


def test_of_recovered_residuals(mixture: Made) -> None:
    check_against_the_oracle(mixture, RECOVERED)
    assert evaluate_criteria(mixture.path, "massive")["massive"].approximate.all()


def test_of_the_stored_residual_and_of_cells_in_several_chunks(with_residual: Made) -> None:
    check_against_the_oracle(with_residual, ["residual", "residual before ln_mlp"])
    massive = evaluate_criteria(with_residual.path, "massive")["massive"]
    assert massive.approximate.values.tolist() == [False, True]
    assert massive["values"].sel(tensor="residual").values.tolist() == [0, *[SEQUENCES] * (LAYERS - 1)]
    assert flagged(massive.outlier.sel(tensor="residual", layer=1)) == [4]


def test_the_residual_alone(with_residual: Made) -> None:
    found = evaluate_criteria(with_residual.path, "kurtosis", Selection(sites=("residual",)))["kurtosis"]
    assert found.tensor.values.tolist() == ["residual"]
    with pytest.raises(StoreError, match="z-score is about the norm output: none of the chosen sites is a norm's"):
        evaluate_criteria(with_residual.path, "z-score", Selection(sites=("residual",)))


def test_without_the_first_position(with_residual: Made) -> None:
    found = evaluate_criteria(with_residual.path, "massive,kurtosis", Selection(positions=(1, None)))
    assert not found["massive"]["values"].any()
    x = np.concatenate([with_residual.sites["ln_mlp"][1, q, 1:] for q in range(SEQUENCES)]).tolist()
    close(found["kurtosis"].kurtosis.sel(tensor="ln_mlp", layer=1), oracle.kurtosis(x))


def test_super_experts_over_sequences(mixture: Made) -> None:
    found = evaluate_criteria(mixture.path, "super-experts")["super-experts"]
    assert np.argwhere(found["super"].values).tolist() == [[1, 3]]
    assert (float(found.greatest.sel(layer=1)), found.experts.values.tolist()) == (700, [0, 1, 0, 0])
    assert np.isnan(found.largest.sel(expert=5)).all()
    only = evaluate_criteria(mixture.path, "super-experts", Selection(sequences=(0, 2)))["super-experts"]
    assert float(only.greatest.sel(layer=1)) < 3
    with pytest.raises(StoreError, match="is of all positions"):
        evaluate_criteria(mixture.path, "super-experts", Selection(positions=(1, None)))


def test_a_gain_of_zero_leaves_nothing_to_recover(tmp_path: Path) -> None:
    made = make_mixture(tmp_path / "z.zarr", odd_gain=0)
    massive = evaluate_criteria(made.path, "massive")["massive"]
    assert massive.tensor.values.tolist() == ["residual before ln_attn"]
    assert "layer 2 has a gain of 0 at feature 5" in massive.attrs["left_out"][0]
    with pytest.raises(StoreError, match=r"gain of 0 at feature 5, .* --sites ln_attn,ln_mlp,residual"):
        evaluate_criteria(made.path, "massive", Selection(sites=("ln_mlp",)))
    other = evaluate_criteria(made.path, "massive", Selection(sites=("ln_mlp",), layers=(0, 1)))["massive"]
    assert other.tensor.values.tolist() == ["residual before ln_mlp"]


def test_what_was_not_captured_is_said_with_the_flag_that_captures_it(tmp_path: Path) -> None:
    values = {"ln_attn": np.ones((1, 1, 4, 3), np.float32)}
    write_store(tmp_path / "plain.zarr", values)
    with pytest.raises(StoreError, match=r"massive is about the residual: .* --sites ln_attn,ln_mlp,residual"):
        evaluate_criteria(tmp_path / "plain.zarr", "massive")
    with pytest.raises(StoreError, match=r"super-experts reads expert_peak, .* the model has no experts"):
        evaluate_criteria(tmp_path / "plain.zarr", "super-experts")
    left = evaluate_criteria(tmp_path / "plain.zarr")
    assert set(criterion_names()) - set(left) == {"massive", "super-experts"}
    assert [line.split(":")[0] for line in left["kurtosis"].attrs["absent"]] == ["No massive", "No super-experts"]


def test_a_store_with_a_floor_answers_none_that_needs_all_values(tmp_path: Path) -> None:
    made = make_mixture(tmp_path / "f.zarr", floor="4")
    for name in criterion_names():
        if name != "super-experts":
            with pytest.raises(StoreError, match=rf"--criteria {name} needs all values, .* floor=4: .*--keep slices"):
                evaluate_criteria(made.path, name)
    assert list(evaluate_criteria(made.path)) == ["super-experts"]


def test_a_store_of_peaks_alone(tmp_path: Path) -> None:
    made = make_mixture(tmp_path / "p.zarr", slices=False)
    with pytest.raises(StoreError, match=r"--criteria kurtosis reads slices, .* holds peaks only: .* --keep slices"):
        evaluate_criteria(made.path, "kurtosis")
    assert list(evaluate_criteria(made.path)) == ["super-experts"]


def test_names(mixture: Made) -> None:
    with pytest.raises(InputError, match="no criterion is called 'kurtos'; did you mean kurtosis"):
        evaluate_criteria(mixture.path, "kurtos")
    with pytest.raises(InputError, match="no criterion is called 'qqq'; there are: channel-magnitudes"):
        evaluate_criteria(mixture.path, "massive,qqq")
    with pytest.raises(InputError, match="has an empty name"):
        evaluate_criteria(mixture.path, "massive,")
    for name in criterion_names():
        criterion = load_criterion(name)
        assert criterion.name == name
        assert (criterion.read is None) == (criterion.statistic is not None) == bool(criterion.kinds)


@pytest.mark.parametrize("encoding", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_tensors_of_one_value_raise_no_alarm(tmp_path: Path, encoding: str, value: float) -> None:
    values = np.full((2, 2, 3, 4), value, np.float32)
    write_store(tmp_path / "s.zarr", {"ln_attn": values}, encoding)
    found = evaluate_criteria(tmp_path / "s.zarr")
    for name in ("variance", "z-score", "systematic-channels"):
        assert not found[name].outlier.any()
    assert np.isnan(found["kurtosis"].kurtosis).all()
    assert found["kurtosis"].attrs["nonfinite"] == (0 if value == 0 else values.size)


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    values = random.normal(0, 1, (1, 2, 6, 5)).astype(np.float32)
    values[0, 0, 1, 2], values[0, 1, 3, 0] = np.nan, -np.inf
    write_store(tmp_path / "s.zarr", {"ln_attn": values}, "float32")
    found = evaluate_criteria(tmp_path / "s.zarr", "kurtosis,infinity-norm,channel-magnitudes")
    channels = found["channel-magnitudes"].isel(tensor=0, layer=0)
    assert (float(channels.channel_max), int(channels.channel_max_at)) == (np.inf, 0)
    assert np.isfinite(channels["mean"]).all()
    close(found["kurtosis"].kurtosis.isel(tensor=0, layer=0), oracle.kurtosis(np.concatenate(values[0]).tolist()))
    own = [oracle.value_kurtosis(q.tolist()) for q in values[0]]
    close(found["infinity-norm"].kurtosis.isel(tensor=0, layer=0), own)
    assert float(found["infinity-norm"].overall_largest.isel(tensor=0, layer=0)) == np.inf


def test_the_second_time_says_the_same(tmp_path: Path) -> None:
    made = make_mixture(tmp_path / "c.zarr", residual=True)
    first, again = evaluate_criteria(made.path), evaluate_criteria(made.path)
    alone = {name: evaluate_criteria(made.path, name, cache=False)[name] for name in first}
    for name, answer in first.items():
        assert answer.identical(again[name])
        assert answer.equals(alone[name])


def test_a_corrupt_cell_is_named_or_left_out_and_told(tmp_path: Path) -> None:
    made = make_mixture(tmp_path / "c.zarr")
    (chunk,) = (made.path / "ln_mlp").glob("c.2.1.*")
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(CorruptChunkError, match="layer 2, sequence 1"):
        evaluate_criteria(made.path, "kurtosis,top-values", cache=False)
    found = evaluate_criteria(made.path, "kurtosis,top-values", skip_corrupt=True, cache=False)
    assert found["kurtosis"].attrs["excluded"] == ["ln_mlp, layer 2, sequence 1"]
    x = np.concatenate([made.sites["ln_mlp"][2, q] for q in (0, 2)]).tolist()
    close(found["kurtosis"].kurtosis.sel(tensor="ln_mlp", layer=2), oracle.kurtosis(x))
    top = found["top-values"].top.sel(tensor="ln_mlp", layer=2)
    assert np.isnan(top.sel(sequence=1)).all()
    (table, _) = criterion_tables(found)
    assert "Left out as corrupt: ln_mlp, layer 2, sequence 1." in table.notes


def test_a_cell_is_left_out_of_every_criterion_where_what_lies_beside_it_is_damaged(tmp_path: Path) -> None:
    """The norm's statistics are read for the residual alone, after other criteria have had the cell."""
    made = make_mixture(tmp_path / "d.zarr")
    chunk = made.path / "ln_mlp_rms/c.0.1.0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    found = evaluate_criteria(made.path, "variance,massive", skip_corrupt=True, cache=False)["variance"]
    assert found.attrs["excluded"] == [f"ln_mlp, layer {layer}, sequence 1" for layer in range(LAYERS)]
    x = np.concatenate([made.sites["ln_mlp"][2, q] for q in (0, 2)]).astype(np.float64)
    close(found.variance.sel(tensor="ln_mlp", layer=2), x.var(axis=0))


def test_all_leaves_out_what_was_not_captured_and_nothing_that_is_damaged(mixture: Made, tmp_path: Path) -> None:
    path = tmp_path / "m.zarr"
    shutil.copytree(mixture.path, path)
    chunk = path / "expert_peak/c.0.1.0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(CorruptChunkError, match=r"expert_peak/c\.0\.1\.0"):
        evaluate_criteria(path, "all", cache=False)
    found = evaluate_criteria(path, "all", Selection(sites=("ln_mlp",), layers=(1,)), skip_corrupt=True, cache=False)
    assert "super-experts" not in found
    assert "expert_peak/c.0.1.0 (sequence 1) is damaged" in found["kurtosis"].attrs["absent"][0]


def test_why_nothing_can_be_evaluated_is_told_once(tmp_path: Path) -> None:
    write_store(tmp_path / "p.zarr", {"ln_mlp": np.ones((2, 2, 3, 4), np.float32)}, complete=False)
    with pytest.raises(StoreError) as refused:
        evaluate_criteria(tmp_path / "p.zarr", "all")
    assert str(refused.value).count("is partial") == 1
