"""What every plan of arrays promises, whatever the dimensions."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from schemas.bits import ENCODINGS, Encoding
from schemas.layout import MAX_CHUNK_BYTES, Dimensions, plan_arrays
from schemas.provenance import NormInfo

dimensions = st.builds(
    Dimensions,
    layers=st.integers(1, 128),
    sequences=st.integers(1, 300),
    positions=st.integers(1, 300_000),
    features=st.integers(1, 16384),
)
encodings = st.sampled_from(list(ENCODINGS.values()))
norms = st.sampled_from([NormInfo(kind=kind, bias=bias) for kind in (None, "rms", "layer") for bias in (None, "bias")])
sites = st.lists(st.sampled_from(["ln_attn", "ln_mlp", "residual"]), min_size=1, max_size=3, unique=True)


@given(dimensions, sites, encodings, st.booleans(), norms)
def test_chunks_are_small_whole_and_of_one_sequence(
    sizes: Dimensions, chosen: list[str], encoding: Encoding, slices: bool, norm: NormInfo
) -> None:
    specs = plan_arrays(sizes, chosen, encoding, norms={chosen[0]: norm}, slices=slices)
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.shape == tuple(sizes.size(dim) for dim in spec.dims)
        assert math.prod(spec.chunks) * spec.dtype.itemsize <= MAX_CHUNK_BYTES
        assert all(1 <= chunk <= size for chunk, size in zip(spec.chunks, spec.shape, strict=True))
        if spec.name.endswith(("_gain", "_bias")):  # the model's: a chunk a layer
            assert spec.chunks == (1, sizes.features)
            continue
        assert spec.chunks[spec.dims.index("sequence")] == 1
        if spec.name in chosen:
            assert spec.chunks[:2] == (1, 1)
            assert spec.chunks[3] == sizes.features
            if spec.raw_bytes // (sizes.layers * sizes.sequences) <= MAX_CHUNK_BYTES:
                assert spec.chunks[2] == sizes.positions
    assert ({spec.name for spec in specs} >= set(chosen)) == slices


@given(dimensions, sites, encodings, norms)
def test_a_norm_has_arrays_of_its_kind(
    sizes: Dimensions, chosen: list[str], encoding: Encoding, norm: NormInfo
) -> None:
    site = chosen[-1]
    without = {spec.name for spec in plan_arrays(sizes, chosen, encoding)}
    added = {spec.name for spec in plan_arrays(sizes, chosen, encoding, norms={site: norm})} - without
    statistics = {None: set(), "rms": {"rms", "gain"}, "layer": {"mean", "std", "gain"}}[norm.kind]
    bias = {"bias"} if norm.kind and norm.bias else set()
    assert added == {f"{site}_{quantity}" for quantity in statistics | bias}


small = st.builds(
    Dimensions, layers=st.integers(1, 5), sequences=st.integers(1, 5), positions=st.integers(1, 9), features=st.just(3)
)


@given(small, encodings)
def test_chunks_cover_every_element_once(sizes: Dimensions, encoding: Encoding) -> None:
    for spec in plan_arrays(sizes, ["ln_attn"], encoding):
        seen = [0] * math.prod(spec.shape)
        grids = [range(-(-size // chunk)) for size, chunk in zip(spec.shape, spec.chunks, strict=True)]
        corners = list(itertools.product(*grids))
        assert len(corners) == spec.chunk_count
        for corner in corners:
            spans = [
                range(c * chunk, min(size, (c + 1) * chunk))
                for c, chunk, size in zip(corner, spec.chunks, spec.shape, strict=True)
            ]
            for element in itertools.product(*spans):
                seen[sum(i * math.prod(spec.shape[axis + 1 :]) for axis, i in enumerate(element))] += 1
        assert seen == [1] * len(seen)


def test_a_sequence_too_long_for_one_chunk_is_split_along_position() -> None:
    specs = plan_arrays(Dimensions(2, 2, 10_000, 2048), ["ln_attn"], ENCODINGS["bfloat16"])
    assert specs[0].chunks == (1, 1, 8192, 2048)
    assert specs[0].chunk_count == 8
