"""The table of a store: its digits against the oracle's, whatever runs the pass and whatever is asked beside it."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from analyze.quantisation.formats import FORMATS
from analyze.quantisation.statistic import POSITIONS, Quantisation
from analyze.statistics.measure import measure
from analyze.statistics.piece import Piece
from analyze.statistics.selection import Selection
from schemas.bits import ENCODINGS
from schemas.errors import CorruptChunkError
from schemas.provenance import NormInfo
from schemas.run import Run
from tests.analyze.quantisation.oracle import ORACLES, Tensor, oracle_columns, oracle_sums
from tests.analyze.worlds import World, stored, worlds
from tests.stores import write_store

GROUP = 3


def expected_cell(tensors: list[Any], name: str, skipped: int) -> dict[str, float]:
    """The four numbers of one format and cell, from the sequences' tensors, without the ``skipped`` first rows."""
    parts = [
        oracle_sums(values, ORACLES[name](Tensor(values), GROUP, Fraction(6)), list(range(skipped, len(values))))
        for values in tensors
    ]
    total = {key: sum(part[key] for part in parts) for key in parts[0]}
    noise = total["signal"] / total["noise"] if total["noise"] else math.inf if total["signal"] else math.nan
    return {
        "sqnr_db": 10 * math.log10(noise) if noise > 0 else noise,
        "relative_error": total["error"] / total["magnitude"] if total["magnitude"] else math.nan,
        "flushed": total["flushed"] / total["nonzero"] if total["nonzero"] else math.nan,
        "clipped": total["clipped"] / total["values"] if total["values"] else math.nan,
    }


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(worlds())
def test_the_table_is_the_oracles(world: World) -> None:
    with stored(world) as (path, held):
        found = measure(Run(path), [Quantisation(group_size=GROUP)])["quantisation"]
    assert found.sqnr_db.dims == ("positions", "format", "site", "layer")
    for site, values in enumerate(held):
        for layer in range(values.shape[0]):
            tensors = list(values[layer])
            for positions, skipped in zip(POSITIONS, (0, 1), strict=True):
                for name in FORMATS:
                    cell = (POSITIONS.index(positions), tuple(FORMATS).index(name), site, layer)
                    for quantity, value in expected_cell(tensors, name, skipped).items():
                        ours = float(found[quantity].values[cell])
                        close = pytest.approx(value, rel=1e-3, abs=1e-3, nan_ok=True)
                        # Below 2^-24 of the tensor what is left of an error is float32's rounding of what was restored.
                        assert ours == close or ours > 120, (name, quantity)
            several = found.outlier_columns.isel(site=site, layer=layer)
            last = np.concatenate(tensors)
            assert float(several[-1]) == oracle_columns(last, Fraction(6))
            assert int(several.tokens_per_call[-1]) == len(last)


def test_the_digits_depend_on_no_company(noisy_store: Path) -> None:
    run = Run(noisy_store)
    whole = measure(run, [Quantisation()])["quantisation"]
    for name in FORMATS:
        alone = measure(run, [Quantisation((name,))], Selection(layers=(1, 3)))["quantisation"]
        for quantity in ("sqnr_db", "relative_error", "flushed", "clipped"):
            same = whole[quantity].sel(format=[name], layer=[1, 3])
            assert np.array_equal(alone[quantity].values, same.values, equal_nan=True)


def test_without_position_0_the_scales_stay_and_its_errors_go(tmp_path: Path) -> None:
    values = np.random.default_rng(5).standard_normal((1, 2, 16, 32)).astype(np.float32)
    values[:, :, 0, 3] = 1000
    write_store(tmp_path / "spike.zarr", {"ln_attn": values})
    run = Run(tmp_path / "spike.zarr")
    names = ("int8-absmax-tensor", "int8-absmax-token")
    with_it = measure(run, [Quantisation(names)])["quantisation"].isel(site=0, layer=0)
    never = measure(run, [Quantisation(names)], Selection(positions=(1, None)))["quantisation"].isel(site=0, layer=0)
    tensor, token = (with_it.sqnr_db.sel(positions="without 0", format=name) for name in names)
    # One spike owns the signal, and the tensor's scale: without it next to nothing is left of the other tokens.
    assert float(with_it.sqnr_db.sel(positions="all", format=names[0])) > 30
    assert float(tensor) < 3
    assert float(with_it.relative_error.sel(positions="without 0", format=names[0])) > 0.9
    # A token's scale is its own: leaving the spike's token out of the tensor, too, changes nothing for the others.
    assert float(token) == float(never.sqnr_db.sel(positions="all", format=names[1]))
    assert float(never.sqnr_db.sel(positions="all", format=names[0])) > 30


def test_tokens_per_call_where_classes_differ_in_length(tmp_path: Path) -> None:
    values = np.full((1, 3, 8, 9), 7, np.float32)
    write_store(tmp_path / "a.zarr", {"ln_attn": values})
    found = measure(Run(tmp_path / "a.zarr"), [Quantisation(("llm-int8",))], Selection(tokens="rest"))["quantisation"]
    assert found.tokens_per_call.values.tolist() == [1, 2, 4, 7, 14, 21]
    assert found.calls.values.ravel().tolist() == [21, 9, 3, 3, 1, 1]
    empty = measure(Run(tmp_path / "a.zarr"), [Quantisation()], Selection(tokens="special"))["quantisation"]
    assert int(empty["values"].sum()) == 0
    assert np.isnan(empty.sqnr_db).all()
    assert empty.sizes["tokens_per_call"] == 0


def test_the_digits_depend_on_no_number_of_threads(noisy_store: Path) -> None:
    run = Run(noisy_store)
    one, three = (measure(run, [Quantisation()], threads=threads)["quantisation"] for threads in (1, 3))
    assert one.identical(three)


def test_a_corrupt_cell_leaves_its_sequence_out_of_its_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    values = (np.random.default_rng(6).standard_t(3, (2, 4, 8, 32)) * 3).astype(np.float32)
    write_store(path, {"ln_attn": values})
    whole = measure(Run(path), [Quantisation()])["quantisation"]
    chunk = path / "ln_attn" / "c.1.2.0.0"
    chunk = chunk if chunk.exists() else path / "ln_attn" / "c" / "1" / "2" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptChunkError):
        measure(Run(path), [Quantisation()])
    found = measure(Run(path), [Quantisation()], skip_corrupt=True)["quantisation"]
    assert found.excluded == ["ln_attn, layer 1, sequence 2"]
    others = measure(Run(path), [Quantisation()], Selection(layers=(1,), sequences=(0, 1, 3)))["quantisation"]
    for quantity in ("sqnr_db", "relative_error", "flushed", "clipped", "values"):
        assert np.array_equal(found[quantity].sel(layer=0).values, whole[quantity].sel(layer=0).values)
        assert np.array_equal(found[quantity].sel(layer=1).values, others[quantity].sel(layer=1).values)
    # Of two calls of two sequences one is whole, of one call of all four none.
    assert found.calls.sel(tokens_per_call=[8, 16, 32]).values[:, 0].tolist() == [[4, 3], [2, 1], [1, 0]]
    assert np.isnan(found.outlier_columns.sel(layer=1, tokens_per_call=32)).all()


def test_in_units_of_gain_the_quotients_are_quantised() -> None:
    random = np.random.default_rng(8)
    values = random.standard_t(3, (5, 32)).astype(ml_dtypes.bfloat16)
    gain = random.uniform(0.2, 3, 32).astype(np.float32)
    gain[7] = 0  # of which nothing is known
    norm = NormInfo(kind="rms", gain="weight", modules=["norm"])
    piece = Piece(
        "ln_attn",
        "ln_attn",
        0,
        0,
        np.arange(5),
        0,
        values.view(np.uint16),
        ENCODINGS["bfloat16"],
        True,
        norm,
        lambda name, *_: gain if name == "ln_attn_gain" else None,
    )
    names = tuple(FORMATS)
    found = Quantisation(names, GROUP).chunk(piece)
    with np.errstate(divide="ignore", invalid="ignore"):
        divided = (values.astype(np.float64) / np.where(gain == 0, np.nan, gain)).astype(np.float32)
    for i, name in enumerate(names):
        expected = oracle_sums(divided, ORACLES[name](Tensor(divided), GROUP, Fraction(6)), [1, 2, 3, 4])
        assert int(found["nonfinite"][1]) == expected["nonfinite"] == 4
        for quantity in ("flushed", "clipped"):
            assert int(found[quantity][i, 1]) == expected[quantity]
        for quantity in ("noise", "error"):
            assert float(found[quantity][i, 1]) == pytest.approx(expected[quantity], rel=1e-12), name
