"""Small run stores made from arrays that a test chose, with peaks computed the plain way.

The patterns come from ml_dtypes and the peaks from decoded values in NumPy, so that nothing here shares code with
``schemas.bits``, whose fast path the tests hold against it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from schemas.bits import encoding_named
from schemas.create import create_run
from schemas.layout import Dimensions, layer_peak_name, nonfinite_name, plan_arrays, position_peak_name
from schemas.provenance import CorpusInfo, ModelInfo, NormInfo, RunInfo, SiteInfo, SoftwareInfo
from schemas.run_writer import RunWriter
from schemas.token_text import TOKEN_TEXT, stored_token_text

__all__ = ["COMMAND", "as_stored", "changed_info", "decoded_values", "run_info", "write_store"]

Array = npt.NDArray[Any]

COMMAND = ["capture", "--model", "tiny model", "--store", "tiny.zarr"]
"""The command that the stores say finishes them."""

_FLOATS: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
_STORED: dict[str, Any] = {"bfloat16": np.uint16, "float16": np.uint16, "float32": np.float32}


def as_stored(values: Array, encoding: str) -> Array:
    """float32 values rounded to the encoding, as its stored array holds them. Same shape."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values).astype(_FLOATS[encoding]).view(_STORED[encoding])


def decoded_values(stored: Array, encoding: str) -> Array:
    """What ``as_stored`` made, as float32 again. Same shape."""
    return np.ascontiguousarray(stored).view(_FLOATS[encoding]).astype(np.float32)


def run_info(
    dimensions: Dimensions,
    sites: Sequence[str],
    encoding: str = "bfloat16",
    *,
    aliases: Mapping[str, str] | None = None,
    model: Mapping[str, Any] | None = None,
    retention: str = "slices",
    norms: Mapping[str, NormInfo] | None = None,
) -> RunInfo:
    """Attributes of a made-up run; ``model`` replaces fields of its ModelInfo; ``norms`` are those that feed sites."""
    facts: dict[str, Any] = {
        "name": "tiny",
        "id": "tests/tiny",
        "architecture": "TinyForCausalLM",
        "model_type": "tiny",
        "layers": dimensions.layers,
        "hidden_size": dimensions.features,
        "vocabulary_size": 7,
        "total_parameters": 135_000_000,
        "active_parameters": 135_000_000,
        "native_dtype": encoding,
        "compute_dtype": encoding,
        "stored_dtype": encoding,
    }
    return RunInfo(
        created="2026-01-01T00:00:00Z",
        command=COMMAND,
        bits=encoding,  # type: ignore[arg-type]
        retention=retention,
        sites={
            **{
                site: SiteInfo(
                    modules=[f"layers.{i}.{site}" for i in range(dimensions.layers)], norm=(norms or {}).get(site)
                )
                for site in sites
            },
            **{alias: SiteInfo(alias=site) for alias, site in (aliases or {}).items()},
        },
        model=ModelInfo(**{**facts, **(model or {})}),
        corpus=CorpusInfo(
            source="made up",
            sequences=dimensions.sequences,
            length=dimensions.positions,
            token_sha256="0" * 64,
            tokenizer_sha256="0" * 64,
        ),
        software=SoftwareInfo(
            outlier_features="0",
            python="3",
            torch="0",
            transformers="0",
            zarr="3",
            engine="none",
            device="cpu",
            batch_size=1,
        ),
        signature={},
    )


def write_store(
    path: Path,
    values: Mapping[str, Array],
    encoding: str = "bfloat16",
    complete: bool = True,
    *,
    missing: Sequence[tuple[int, int]] = (),
    slices: bool = True,
    floor: str | None = None,
    aliases: Mapping[str, str] | None = None,
    model: Mapping[str, Any] | None = None,
    token_nll: Array | None = None,
    position_chunk: int | None = None,
    norms: Mapping[str, NormInfo] | None = None,
    beside: Mapping[str, Array] | None = None,
    token_text: Mapping[int, str] | None = None,
) -> dict[str, Array]:
    """Write a store and return what its sites hold, decoded to float32.

    ``values`` gives each site a float32 array (layer, sequence, position, feature), rounded here to ``encoding``.
    ``missing`` lists (layer, sequence) cells left unwritten, and with them their sequence's position peaks;
    ``complete=False`` leaves out the last layer of the last sequence. ``position_chunk`` splits the slices along
    position, as capture does with long sequences. ``floor``: magnitude below which the slices alone are zeroed.
    ``beside``: other arrays by name (``ln_mlp_gain``, ``expert_id``), those of ``norms`` among them. ``token_text``: by
    id; all ids are 0.
    """
    layers, sequences, positions, features = next(iter(values.values())).shape
    ranks, experts = ((beside or {}).get(name, np.empty(0)).shape[-1] for name in ("expert_id", "expert_peak"))
    dimensions = Dimensions(layers, sequences, positions, features, ranks, experts)
    specs = plan_arrays(dimensions, list(values), encoding_named(encoding), slices=slices, norms=norms)
    if position_chunk is not None:
        specs = tuple(
            dataclasses.replace(spec, chunks=(1, 1, min(position_chunk, positions), features))
            if spec.name in values
            else spec
            for spec in specs
        )
    nll = np.full((sequences, positions), 2.0, np.float32) if token_nll is None else token_nll
    contents = {
        "token_id": np.zeros((sequences, positions), np.int32),
        "token_nll": nll.astype(np.float32),
        "token_mask": np.zeros((sequences, positions), np.uint8),
        **(beside or {}),
    }
    if token_text is not None:
        spec, contents[TOKEN_TEXT] = stored_token_text(token_text)
        specs = (*specs, spec)
    retention = f"floor={floor}" if floor else "slices" if slices else "peaks"
    info = run_info(dimensions, list(values), encoding, aliases=aliases, model=model, retention=retention, norms=norms)
    create_run(path, info, specs, contents)
    absent = set(missing) if complete else {*missing, (layers - 1, sequences - 1)}
    writer = RunWriter(path)
    held = {site: decoded_values(as_stored(array, encoding), encoding) for site, array in values.items()}
    for sequence in range(sequences):
        written = [layer for layer in range(layers) if (layer, sequence) not in absent]
        for site, array in held.items():
            own = array[:, sequence]
            for part in [slice(None)] if len(written) == layers else [slice(layer, layer + 1) for layer in written]:
                if slices:
                    kept = own[part] if floor is None else _floored(own[part], Fraction(floor))
                    writer.write(site, (part, sequence), as_stored(kept, encoding))
                writer.write(layer_peak_name(site), (part, sequence), as_stored(_largest(own[part], axis=1), encoding))
            counts = [np.count_nonzero(~np.isfinite(cell)) for cell in own]
            writer.write(nonfinite_name(site), (slice(None), sequence), np.array(counts, np.uint64))
            if len(written) == layers:
                writer.write(position_peak_name(site), (sequence,), as_stored(_largest(own, axis=0), encoding))
        writer.commit(written, [sequence])
    return held


def _floored(values: Array, floor: Fraction) -> Array:
    """``values`` with zero for those whose magnitude is below ``floor``, compared one by one as fractions."""
    below = [math.isfinite(value) and abs(Fraction(value)) < floor for value in values.ravel().tolist()]
    return np.where(np.reshape(below, values.shape), np.float32(0), values)


def _largest(values: Array, axis: int) -> Array:
    """Largest magnitude along an axis; a NaN counts as 0."""
    return np.where(np.isnan(values), np.float32(0), np.abs(values)).max(axis=axis)


def changed_info(**changes: Any) -> RunInfo:
    """What a made-up run says about itself, with other values of keys of its corpus or model, or other ``bits``."""
    info = run_info(Dimensions(2, 3, 8, 4), ["ln_attn", "ln_mlp"])
    corpus = {k: v for k, v in changes.items() if k in type(info.corpus).model_fields}
    model = {k: v for k, v in changes.items() if k in type(info.model).model_fields}
    return info.model_copy(
        update={
            "corpus": info.corpus.model_copy(update=corpus),
            "model": info.model.model_copy(update=model),
            **({"bits": changes["bits"]} if "bits" in changes else {}),
        }
    )
