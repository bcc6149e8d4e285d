"""Stores of peaks alone for benchmarks: of the published models' geometries, counting about what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.slices_store import SITES, generated_info
from schemas.bits import encoding_named
from schemas.create import create_run
from schemas.layout import Dimensions, layer_peak_name, nonfinite_name, plan_arrays, position_peak_name
from schemas.run_writer import RunWriter
from schemas.token_text import stored_token_text

__all__ = ["GEOMETRIES", "write_peaks"]

GEOMETRIES = {
    "olmoe-1b-7b": (16, 2048, 49),
    "gpt-oss-20b": (24, 2880, 1465),
    "qwen3-30b": (48, 2048, 110),
    "mixtral-8x7b": (32, 4096, 4635),
    "qwen3-next-80b": (48, 2048, 504),
    "glm-4.5-air": (46, 4096, 459),
    "gpt-oss-120b": (36, 2880, 1695),
}
"""Layers, features, and the outliers at magnitude 6 that were published, over 16 sequences of 2048 positions."""

_TOKENS = 5_000


def write_peaks(path: Path, name: str, dimensions: Dimensions, share: float, seed: int) -> None:
    """A bfloat16 run of peaks whose features count at magnitude 6, by the default rule, in about that ``share``.

    Values have exponential tails, as those of norm outputs do; their scale is lognormal over features, cells and
    tokens. One feature in 500 is ten times the others, and the first position three times.
    """
    d, encoding = dimensions, encoding_named("bfloat16")
    random = np.random.default_rng(seed)
    texts, contents = stored_token_text({i: f" word{i}" for i in range(_TOKENS)})
    info = generated_info(d)
    model = info.model.model_copy(update={"name": name, "id": name, "total_parameters": d.layers * d.features**2 * 12})
    create_run(
        path,
        info.model_copy(update={"model": model}),
        (*plan_arrays(d, SITES, encoding, slices=False), texts),
        {
            texts.name: contents,
            "token_id": random.zipf(1.3, (d.sequences, d.positions)).clip(0, _TOKENS - 1).astype(np.int32),
            "token_nll": np.full((d.sequences, d.positions), 2, np.float32),
            "token_mask": np.zeros((d.sequences, d.positions), np.uint8),
        },
    )
    writer = RunWriter(path)
    cell_scale = random.lognormal(0, 0.3, (len(SITES), d.layers))
    feature_scale = random.lognormal(0, 0.35, d.features)
    feature_scale[random.random(d.features) < 1 / 500] *= 10
    unit = _Peaks(d, cell_scale)
    layer, position = unit.of_layers(random), unit.of_positions(random)
    quarter = np.quantile(layer.reshape(-1, d.features), 0.75, axis=0)
    critical = np.minimum(quarter, np.quantile(position.max(axis=0), 0.94, axis=0)) * feature_scale
    scale = (feature_scale * 6 / np.quantile(critical, 1 - share)).astype(np.float32)
    for sequence in range(d.sequences):
        layer, position = unit.of_layers(random) * scale, unit.of_positions(random) * scale
        for i, site in enumerate(SITES):
            writer.write(layer_peak_name(site), (slice(None), sequence), _patterns(layer[i]))
            writer.write(position_peak_name(site), (sequence,), _patterns(position[i]))
            writer.write(nonfinite_name(site), (slice(None), sequence), np.zeros(d.layers, np.uint64))
    writer.commit(range(d.layers), range(d.sequences))


class _Peaks:
    """Peaks of exponential values whose scale is that of their cell, drawn without drawing the values."""

    def __init__(self, d: Dimensions, cell_scale: npt.NDArray[Any]) -> None:
        self.d, self.cell_scale = d, cell_scale
        self.grid = np.linspace(0, 60, 6_000)
        below = -np.expm1(-self.grid[:, np.newaxis, np.newaxis] / cell_scale)
        self.shares = below.prod(axis=2).T  # of a site's largest over layers, at most each point of the grid

    def of_layers(self, random: np.random.Generator) -> npt.NDArray[np.float32]:
        """(site, layer, feature): the largest of all positions."""
        drawn = random.random((len(SITES), self.d.layers, self.d.features))
        peaks = -np.log(-np.expm1(np.log(drawn) / self.d.positions)) * self.cell_scale[:, :, np.newaxis]
        found: npt.NDArray[np.float32] = peaks.astype(np.float32)
        return found

    def of_positions(self, random: np.random.Generator) -> npt.NDArray[np.float32]:
        """(site, position, feature): the largest of all layers."""
        token_scale = random.lognormal(0, 0.15, self.d.positions).astype(np.float32)
        token_scale[0] *= 3
        drawn = random.random((len(SITES), self.d.positions, self.d.features), np.float32)
        peaks = [np.interp(drawn[i], self.shares[i], self.grid) for i in range(len(SITES))]
        found: npt.NDArray[np.float32] = np.asarray(peaks, np.float32) * token_scale[:, np.newaxis]
        return found


def _patterns(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    patterns: npt.NDArray[np.uint16] = ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
    return patterns
