"""Random stores for property tests: few distinct values, so that ties, coincidences and edges happen all the time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tests.stores import write_store

__all__ = ["ENCODINGS", "PRESETS", "SHARES", "World", "stored", "worlds"]

ENCODINGS = ("bfloat16", "float16", "float32")
PRESETS = ("moe-table", "llm-int8", "llm-int8-block", "majority")
SHARES = ("1%", "6%", "7%", "25%", "1/3", "0.5", "3/4", "100%")
ZOO = (0.0, -0.0, 6.0, -6.0, 5.97, 5.99, 6.001, 2.0, -8.5, 12.0, 1e-40, -1e-7, 65504.0, 3e38, np.nan, np.inf, -np.inf)


@dataclass(frozen=True)
class World:
    """Values of one store's sites, and its encoding."""

    sites: dict[str, npt.NDArray[Any]]
    encoding: str
    position_chunk: int

    @property
    def sequences(self) -> list[int]:
        """All its sequences."""
        return list(range(next(iter(self.sites.values())).shape[1]))


@st.composite
def worlds(draw: st.DrawFn, finite: bool = False) -> World:
    """One to four of each dimension, one or two sites, values of the zoo or near the default magnitude."""
    shape = tuple(draw(st.integers(1, most)) for most in (4, 4, 5, 3))
    names = draw(st.sampled_from((("ln_attn",), ("ln_attn", "ln_mlp"))))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    strange = draw(st.sampled_from((0.0, 0.2, 0.9)))
    zoo = np.array([value for value in ZOO if np.isfinite(value) or not finite], np.float32)
    sites = {}
    for name in names:
        plain = np.round(random.normal(0, 6, shape) * 4) / 4
        sites[name] = np.where(random.random(shape) < strange, random.choice(zoo, shape), plain).astype(np.float32)
    return World(sites, draw(st.sampled_from(ENCODINGS)), draw(st.integers(1, 5)))


@contextmanager
def stored(world: World) -> Iterator[tuple[Path, list[npt.NDArray[Any]]]]:
    """A store of the world, and what its sites hold after rounding to the encoding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.zarr"
        held = write_store(path, world.sites, world.encoding, position_chunk=world.position_chunk)
        yield path, list(held.values())
