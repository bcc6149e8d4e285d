"""Stores of slices for benchmarks: of a published geometry, made of a few distinct realistic cells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.bits import encoding_named, nonfinite_count, peak_bits
from schemas.create import create_run
from schemas.layout import Dimensions, layer_peak_name, nonfinite_name, plan_arrays, position_peak_name
from schemas.provenance import CorpusInfo, ModelInfo, RunInfo, SiteInfo, SoftwareInfo
from schemas.run_writer import RunWriter

__all__ = ["SITES", "generated_info", "write_slices"]

SITES = ("ln_attn", "ln_mlp")
SOFTWARE = SoftwareInfo(
    outlier_features="0", python="", torch="", transformers="", zarr="", engine="none", device="cpu", batch_size=1
)
_DISTINCT = 12
_OUTLIERS = 6


def write_slices(path: Path, dimensions: Dimensions) -> None:
    """A bfloat16 run whose cells are ``_DISTINCT`` ones over and over, as links to the same files.

    Like norm outputs: normal values times a gain of each feature, of which a few are outliers at most positions.
    """
    d, encoding = dimensions, encoding_named("bfloat16")
    create_run(path, generated_info(d), plan_arrays(d, SITES, encoding), {})
    writer = RunWriter(path)
    random = np.random.default_rng(0)
    cells = [(i, q) for q in range(d.sequences) for i in range(d.layers)]
    for site in SITES:
        patterns: list[npt.NDArray[Any]] = []
        for i, (layer, sequence) in enumerate(cells):
            if i < _DISTINCT:
                patterns.append(_cell(random, d))
                writer.write(site, (layer, sequence), patterns[-1])
            else:
                first = cells[i % _DISTINCT]
                file, target = (Path(path, site, f"c.{a}.{b}.0.0") for a, b in (first, (layer, sequence)))
                os.link(file, target)
        layer_peaks = [peak_bits(cell, 0, encoding) for cell in patterns]
        counts = [nonfinite_count(cell, encoding) for cell in patterns]
        for sequence in range(d.sequences):
            which = [cells.index((layer, sequence)) % _DISTINCT for layer in range(d.layers)]
            writer.write(layer_peak_name(site), (slice(None), sequence), np.stack([layer_peaks[i] for i in which]))
            writer.write(nonfinite_name(site), (slice(None), sequence), np.array([counts[i] for i in which], np.uint64))
            position = np.maximum.reduce([patterns[i] & 0x7FFF for i in set(which)])
            writer.write(position_peak_name(site), (sequence,), position)
    for sequence in range(d.sequences):
        writer.write("token_nll", (sequence,), np.ones(d.positions, np.float32))
    writer.commit(range(d.layers), range(d.sequences))


def _cell(random: np.random.Generator, d: Dimensions) -> npt.NDArray[Any]:
    gain = random.lognormal(-0.9, 0.3, d.features)
    gain[random.integers(0, d.features, _OUTLIERS)] *= 12
    values = random.standard_normal((d.positions, d.features), np.float32) * gain.astype(np.float32)
    values[0] *= 4
    patterns: npt.NDArray[Any] = ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
    return patterns


def generated_info(d: Dimensions) -> RunInfo:
    """Provenance of a store of these dimensions that no model was run for."""
    model = ModelInfo(
        name="bench",
        id="bench",
        architecture="none",
        model_type="none",
        layers=d.layers,
        hidden_size=d.features,
        vocabulary_size=1,
        total_parameters=0,
        active_parameters=0,
        native_dtype="bfloat16",
        compute_dtype="bfloat16",
        stored_dtype="bfloat16",
    )
    return RunInfo(
        created="",
        command=["capture"],
        bits="bfloat16",
        sites={site: SiteInfo() for site in SITES},
        model=model,
        corpus=CorpusInfo(
            source="random", sequences=d.sequences, length=d.positions, token_sha256="", tokenizer_sha256=""
        ),
        software=SOFTWARE,
        signature={},
    )
