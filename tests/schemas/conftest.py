"""A small run store with every pattern that could go wrong, in any of the three encodings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.bits import ENCODINGS, Encoding
from schemas.create import create_run
from schemas.layout import Dimensions, plan_arrays
from schemas.provenance import CorpusInfo, ModelInfo, RunInfo, SiteInfo, SoftwareInfo
from schemas.run_writer import RunWriter

SITES = ("ln_attn", "ln_mlp")


def run_info(dimensions: Dimensions, bits: str, *, alias: bool = False) -> RunInfo:
    """Provenance of a run of these dimensions; ``alias``: the second site is the first one's tensor."""
    return RunInfo(
        created="2026-01-01T00:00:00Z",
        command=["capture", "--model", "tiny"],
        bits=bits,  # type: ignore[arg-type]
        sites={"ln_attn": SiteInfo(), "ln_mlp": SiteInfo(alias="ln_attn" if alias else None)},
        model=ModelInfo(
            name="tiny",
            id="tiny",
            architecture="TinyForCausalLM",
            model_type="tiny",
            layers=dimensions.layers,
            hidden_size=dimensions.features,
            vocabulary_size=32,
            total_parameters=10,
            active_parameters=10,
            native_dtype=bits,
            compute_dtype=bits,
            stored_dtype=bits,  # type: ignore[arg-type]
        ),
        corpus=CorpusInfo(
            source="pydoc",
            sequences=dimensions.sequences,
            length=dimensions.positions,
            token_sha256="0" * 64,
            tokenizer_sha256="0" * 64,
        ),
        software=SoftwareInfo(
            outlier_features="0",
            python="3.11",
            torch="2",
            transformers="5",
            zarr="3",
            engine="resident",
            device="cpu",
            batch_size=1,
        ),
        signature={"model": "tiny", "length": dimensions.positions},
    )


@dataclass(frozen=True)
class Made:
    """A store on disk and the patterns that were written to it, by array."""

    path: Path
    info: RunInfo
    dimensions: Dimensions
    encoding: Encoding
    written: dict[str, Any]


def patterns(encoding: Encoding, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Random bit patterns in the stored dtype, NaN payloads, infinities, subnormals and both zeros among them."""
    generator = np.random.default_rng(seed)
    whole = generator.integers(0, 2 ** (8 * encoding.itemsize), size=shape, dtype=np.uint64).astype(encoding.unsigned)
    zoo = [0, encoding.sign_mask, 1, encoding.infinity, encoding.infinity | encoding.sign_mask]
    zoo += [encoding.nan, encoding.nan | 1, encoding.infinity - 1]
    flat = whole.reshape(-1)
    flat[: len(zoo)] = np.array(zoo, encoding.unsigned)[: len(flat)]
    return whole.view(encoding.stored)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Made]:
    """Function that makes a store; ``commit=False`` leaves it empty."""

    def make(
        bits: str = "bfloat16",
        dimensions: Dimensions | None = None,
        *,
        alias: bool = False,
        commit: bool = True,
        name: str = "run.zarr",
    ) -> Made:
        dimensions = dimensions or Dimensions(layers=3, sequences=2, positions=5, features=7)
        encoding = ENCODINGS[bits]
        info = run_info(dimensions, bits, alias=alias)
        path = tmp_path / name
        specs = plan_arrays(dimensions, info.stored_sites, encoding)
        tokens = np.arange(dimensions.sequences * dimensions.positions, dtype=np.int32)
        contents = {"token_id": tokens.reshape(dimensions.sequences, dimensions.positions)}
        create_run(path, info, specs, contents)
        written: dict[str, Any] = dict(contents)
        if commit:
            writer = RunWriter(path)
            for seed, spec in enumerate(specs):
                if spec.name in ("token_id", "committed"):
                    continue
                if "bits" in dict(spec.attributes):
                    values = patterns(encoding, spec.shape, seed)
                else:
                    values = (np.arange(np.prod(spec.shape)) % 4).reshape(spec.shape).astype(spec.dtype)
                writer.write(spec.name, (slice(None),), values)
                written[spec.name] = values
            writer.commit(range(dimensions.layers), range(dimensions.sequences))
        return Made(path, info, dimensions, encoding, written)

    return make
