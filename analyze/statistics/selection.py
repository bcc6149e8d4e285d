"""What part of a store a statistic is of: sites, layers, sequences, positions, and in which units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from analyze.sequences import analysed_sequences
from schemas.errors import InputError, StoreError
from schemas.layout import MASK_DOCUMENT_START, MASK_SPECIAL, RESIDUAL
from schemas.run import Run

__all__ = ["EVERYTHING", "TOKEN_CLASSES", "Chosen", "Selection", "choose", "chosen_sites"]

TOKEN_CLASSES = ("special", "first", "rest")
"""The tokenizer's special tokens; tokens that begin a window or a document, and are not special; all others."""


@dataclass(frozen=True)
class Selection:
    """What is asked for; None takes all. Of sites, None is every one that is stored by itself, without the residual.

    ``sites``, ``layers`` and ``sequences`` may be any list of them, each once. ``positions``: from the first to before
    the second, None for the end. ``tokens``: one of ``TOKEN_CLASSES``.
    ``in_gain_units``: values are divided by the gain of the norm that made them. ``partial``: of a store that is not
    finished, its complete sequences.
    """

    sites: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    sequences: tuple[int, ...] | None = None
    positions: tuple[int, int | None] | None = None
    tokens: str | None = None
    in_gain_units: bool = False
    partial: bool = False


EVERYTHING = Selection()


@dataclass(frozen=True)
class Chosen:
    """A selection made definite for one store; ``arrays`` hold the ``sites``, one each. Positions: [start, stop)."""

    sites: tuple[str, ...]
    arrays: tuple[str, ...]
    layers: tuple[int, ...]
    sequences: tuple[int, ...]
    start: int
    stop: int
    tokens: str | None
    in_gain_units: bool

    def positions(self, run: Run, sequence: int) -> npt.NDArray[np.int64]:
        """The chosen positions of one sequence, ascending: (n,); may be none."""
        positions: npt.NDArray[np.int64] = np.arange(self.start, self.stop)
        if self.tokens is None:
            return positions
        mask = run.read("token_mask", (sequence,))
        special = (mask & MASK_SPECIAL) != 0
        first = ((mask & MASK_DOCUMENT_START) != 0) | (np.arange(mask.size) == 0)
        kept = {"special": special, "first": first & ~special, "rest": ~first & ~special}[self.tokens]
        classed: npt.NDArray[np.int64] = positions[kept[self.start : self.stop]]
        return classed


def choose(run: Run, selection: Selection = EVERYTHING, *, slices: bool = True) -> Chosen:
    """What ``selection`` is of ``run``.

    Raises InputError for a site, layer, sequence, position or token class that the run has not or that is named twice,
    StoreError where its slices were not kept (unless they are not read: ``slices=False``), or it is partial and that
    was not asked for.
    """
    d = run.dimensions
    sites = chosen_sites(run, None if selection.sites is None else _each_once("sites", selection.sites))
    arrays = tuple(run.info.site_array(site) for site in sites)
    for array in arrays:
        if slices and array not in run:
            raise StoreError(
                f"{run.path} holds peaks only, no slices of {array!r}: capture the model again with --keep slices"
            )
    complete = analysed_sequences(run, selection.partial or selection.sequences is not None)
    sequences = complete if selection.sequences is None else _numbers("sequences", selection.sequences)
    for sequence in sequences:
        _require_within("sequence", sequence, d.sequences)
        if sequence not in complete:
            raise StoreError(f"sequence {sequence} of {run.path} is not complete: finish it: {run.finishing_command()}")
    layers = tuple(range(d.layers)) if selection.layers is None else _numbers("layers", selection.layers)
    for layer in layers:
        _require_within("layer", layer, d.layers)
    start, stop = (0, d.positions) if selection.positions is None else _ends(selection.positions, d.positions)
    if not 0 <= start < stop <= d.positions:
        raise InputError(f"positions {start}:{stop} are none of {run.path}, whose sequences have {d.positions:,}")
    if selection.tokens is not None and selection.tokens not in TOKEN_CLASSES:
        raise InputError(f"no class of tokens is called {selection.tokens!r}; there are: {', '.join(TOKEN_CLASSES)}")
    return Chosen(sites, arrays, layers, sequences, start, stop, selection.tokens, selection.in_gain_units)


def chosen_sites(run: Run, sites: tuple[str, ...] | None) -> tuple[str, ...]:
    """``sites``, or for None those that are stored by themselves, without the residual unless nothing else is stored.

    Definitions are about what enters the blocks. Raises InputError for a site that the run has not.
    """
    if sites is None:
        stored = tuple(run.info.stored_sites)
        return tuple(site for site in stored if site != RESIDUAL) or stored
    for site in sites:
        if site not in run.info.sites:
            captured = ". Capture it with: --sites ln_attn,ln_mlp,residual" if site == RESIDUAL else ""
            raise InputError(f"{run.path} has no site {site!r}; it has: {', '.join(run.info.sites)}{captured}")
    return tuple(sites)


def _each_once(name: str, given: Any) -> tuple[Any, ...]:
    """``given`` as a tuple; raises InputError where it is no list, is empty, or has one twice."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"{name}={given!r} is no list of {name}: write {name}=({given!r},)")
    listed = tuple(given)
    if not listed:
        raise InputError(f"{name}={given!r} chooses none: name at least one, or leave it out for all")
    twice = next((one for one in listed if listed.count(one) > 1), None)
    if twice is not None:
        raise InputError(f"{name}={given!r} has {twice!r} twice: name each once")
    return listed


def _numbers(name: str, given: Any) -> tuple[int, ...]:
    """The same of whole numbers."""
    listed = _each_once(name, given)
    for one in listed:
        if not isinstance(one, Integral):
            raise InputError(f"{name}={given!r} has {one!r}, which is no whole number")
    return tuple(map(int, listed))


def _ends(given: Any, total: int) -> tuple[int, int]:
    """The first position of ``given`` and the one after its last; raises InputError where it is no such pair."""
    match given:
        case [Integral() as start, None]:
            return int(start), total
        case [Integral() as start, Integral() as stop]:
            return int(start), int(stop)
    raise InputError(f"positions={given!r} is no pair: write positions=(START, STOP), None for the end: (1, None)")


def _require_within(noun: str, number: int, size: int) -> None:
    if not 0 <= number < size:
        raise InputError(f"there is no {noun} {number}; the store's are 0 to {size - 1}")
