"""The formats that are simulated, as data: adding one touches this file alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from analyze.quantisation.grids import E2M1, E4M3, E5M2, INT8
from analyze.quantisation.kernels import Kernel, absmax, llm_int8, microscaled, nvfp4, zeropoint
from schemas.errors import InputError

__all__ = ["FORMATS", "Format", "chosen_formats"]


@dataclass(frozen=True)
class Format:
    """One way to hold a tensor in few bits.

    ``elementwise``: what a value becomes depends on it and on the tensor as a whole, not on its row or column, so that
    each distinct value need be looked at but once. ``double``: in float64, where float32 would not round as exact
    arithmetic does. ``words`` say what shares a scale, and what it is.
    """

    name: str
    words: str
    kernel: Kernel
    elementwise: bool = False
    double: bool = False


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Format(
                "int8-absmax-tensor",
                "int8, one absmax scale for the tensor",
                absmax("tensor", INT8),
                elementwise=True,
            ),
            Format("int8-absmax-token", "int8, an absmax scale for each token", absmax("token", INT8)),
            Format("int8-absmax-channel", "int8, an absmax scale for each feature", absmax("channel", INT8)),
            Format("int8-absmax-group", "int8, an absmax scale for each group of features", absmax("group", INT8)),
            Format(
                "int8-zeropoint-tensor",
                "int8, least to largest value of the tensor onto -127 to 127",
                zeropoint("tensor"),
                elementwise=True,
                double=True,
            ),
            Format(
                "int8-zeropoint-token",
                "int8, least to largest value of each token onto -127 to 127",
                zeropoint("token"),
                double=True,
            ),
            Format(
                "llm-int8",
                "LLM.int8(): columns with a value of at least alpha in 16 bits, the rest as int8-absmax-token",
                llm_int8,
            ),
            Format(
                "fp8-e4m3-tensor", "FP8 E4M3, the tensor's absmax onto 448", absmax("tensor", E4M3), elementwise=True
            ),
            Format("fp8-e4m3-token", "FP8 E4M3, each token's absmax onto 448", absmax("token", E4M3)),
            Format(
                "fp8-e5m2-tensor", "FP8 E5M2, the tensor's absmax onto 57344", absmax("tensor", E5M2), elementwise=True
            ),
            Format("fp8-e5m2-token", "FP8 E5M2, each token's absmax onto 57344", absmax("token", E5M2)),
            Format("mxfp4", "MXFP4: E2M1, a power of two for each 32 features", microscaled(32, E2M1)),
            Format(
                "nvfp4",
                "NVFP4: E2M1, an E4M3 scale for each 16 features, one float32 for the tensor",
                nvfp4,
                double=True,
            ),
        )
    }
)


def chosen_formats(names: Sequence[str] | None) -> tuple[Format, ...]:
    """The formats called ``names`` (None: all), in the table's order; raises InputError with the nearest names.

    >>> [entry.name for entry in chosen_formats(["nvfp4", "llm-int8"])]
    ['llm-int8', 'nvfp4']
    """
    if names is None:
        return tuple(FORMATS.values())
    for name in names:
        if name not in FORMATS:
            near = [known for known in FORMATS if name and name.lower() in known]
            near = near or difflib.get_close_matches(name.lower(), FORMATS, n=3, cutoff=0.7)
            near = near or [known for known in FORMATS if name and _family(known) == _family(name.lower())]
            known = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(FORMATS)}"
            raise InputError(f"no quantisation format is called {name!r}; {known}")
    return tuple(entry for name, entry in FORMATS.items() if name in names)


def _family(name: str) -> str:
    """``fp`` of ``fp8-e4m3-token`` and of ``fp9``: the letters that a name begins with."""
    return name[: len(name) - len(name.lstrip("abcdefghijklmnopqrstuvwxyz"))]
