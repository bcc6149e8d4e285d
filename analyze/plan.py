"""What answering a question from a store takes, decided before anything is read: pure integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from analyze.quantities import decimal_text
from analyze.question import Question
from analyze.sequences import analysed_sequences
from schemas.bits import Encoding, magnitude_value, threshold_bits
from schemas.errors import InputError, StoreError
from schemas.layout import RESIDUAL, Dimensions, layer_peak_name, position_peak_name
from schemas.run import Run

__all__ = ["MAX_DETAILED_THRESHOLDS", "Plan", "make_plan"]

MAX_DETAILED_THRESHOLDS = 256
"""Most distinct thresholds of one detailed question: hit counts are kept per unit and threshold while reading."""


@dataclass(frozen=True)
class Plan:
    """A question made definite for one store.

    ``sequences`` are the ones analysed; ``arrays`` the stored arrays of the sites, in their order, and
    ``stored_sites`` what the store holds by itself. ``thresholds``
    are the distinct bit patterns of the magnitudes, ascending, and ``threshold_of`` says for each magnitude which
    one is its own. ``layers_total`` is C of docs/definitions.md (cells or blocks), ``positions_total`` the positions
    of one scope.
    """

    question: Question
    sites: tuple[str, ...]
    stored_sites: tuple[str, ...]
    arrays: tuple[str, ...]
    sequences: tuple[int, ...]
    dimensions: Dimensions
    encoding: Encoding
    thresholds: tuple[int, ...]
    threshold_of: tuple[int, ...]
    layers_total: int
    layers_needed: int
    positions_total: int
    positions_needed: int
    sequences_needed: int | None
    count_engine: str

    @property
    def partial(self) -> bool:
        """True where sequences of the store are left out because they are not complete."""
        return len(self.sequences) < self.dimensions.sequences

    @property
    def sequence_positions_needed(self) -> int:
        """Positions that a feature needs when the rule is applied to one sequence alone."""
        return self.question.positions.of(self.dimensions.positions)

    @property
    def answered_from(self) -> str:
        """Which arrays the answer comes from: ``peaks``, ``slices`` or ``peaks+slices``."""
        return "peaks+slices" if self.question.details and self.count_engine == "peaks" else self.count_engine

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sites that the store holds and that count only where they are asked for: the residual."""
        return tuple(site for site in self.stored_sites if site not in self.sites and self.question.sites is None)

    def is_exact(self, magnitude: Fraction) -> bool:
        """True where the store's encoding holds the magnitude itself, so that a hit can be a tie."""
        pattern = threshold_bits(magnitude, self.encoding)
        return pattern < self.encoding.infinity and magnitude_value(pattern, self.encoding) == magnitude

    def layer_units(self, layer_peak: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
        """Peaks of (site, layer, feature) as (layer unit, feature): every cell, or the larger cell of each block."""
        if self.question.definition.layer_unit == "block":
            return np.asarray(layer_peak.max(axis=0))
        return layer_peak.reshape(-1, layer_peak.shape[-1])


def make_plan(run: Run, question: Question) -> Plan:
    """How ``question`` is answered from ``run``.

    Raises InputError for a site that the store has not, and StoreError for a partial store without ``partial``, or
    one that does not hold what the engine reads.
    """
    dimensions, definition = run.dimensions, question.definition
    sites = _sites(run, question)
    arrays = tuple(run.info.site_array(site) for site in sites)
    count_engine = "peaks" if question.engine == "auto" else question.engine
    flag = "--details" if question.details else "--engine slices" if count_engine == "slices" else None
    _require(run, arrays, count_engine, flag)
    sequences = analysed_sequences(run, question.partial)
    layers_total = dimensions.layers * (1 if definition.layer_unit == "block" else len(sites))
    positions_total = dimensions.positions * (len(sequences) if definition.scope == "pooled" else 1)
    share = definition.sequence_share
    patterns = [threshold_bits(magnitude, run.encoding) for magnitude in question.magnitudes]
    thresholds = tuple(sorted(set(patterns)))
    if flag is not None:
        _require_above_floor(run, question, thresholds[0], flag)
    if question.details and len(thresholds) > MAX_DETAILED_THRESHOLDS:
        raise InputError(
            f"--details at {len(thresholds):,} distinct magnitudes; the limit is {MAX_DETAILED_THRESHOLDS}: "
            "take a larger step, or leave out --details"
        )
    return Plan(
        question=question,
        sites=sites,
        stored_sites=tuple(run.info.stored_sites),
        arrays=arrays,
        sequences=sequences,
        dimensions=dimensions,
        encoding=run.encoding,
        thresholds=thresholds,
        threshold_of=tuple(thresholds.index(pattern) for pattern in patterns),
        layers_total=layers_total,
        layers_needed=question.layers.of(layers_total),
        positions_total=positions_total,
        positions_needed=question.positions.of(positions_total),
        sequences_needed=None if share is None else math.ceil(share * len(sequences)),
        count_engine=count_engine,
    )


def _sites(run: Run, question: Question) -> tuple[str, ...]:
    stored = tuple(run.info.stored_sites)
    if question.sites is None:  # definitions are about what enters the blocks, unless nothing else is stored
        return tuple(site for site in stored if site != RESIDUAL) or stored
    for site in question.sites:
        if site not in run.info.sites:
            raise InputError(f"{run.path} has no site {site!r}; it has: {', '.join(run.info.sites)}")
    return question.sites


def _require(run: Run, arrays: tuple[str, ...], count_engine: str, flag: str | None) -> None:
    """Raise StoreError unless the store has what the counts are taken from, and the slices that ``flag`` reads."""
    if count_engine == "peaks":
        for array in arrays:
            for name in (layer_peak_name(array), position_peak_name(array)):
                if name not in run:
                    raise StoreError(f"{run.path} has no array {name!r}; answer from its slices with --engine slices")
    if flag is not None:
        for array in arrays:
            if array not in run:
                raise StoreError(
                    f"{run.path} holds peaks only, no slices of {array!r}, which {flag} reads: leave out {flag}, "
                    "or capture the model again with --keep slices"
                )


def _require_above_floor(run: Run, question: Question, least: int, flag: str) -> None:
    """Raise StoreError where a threshold's pattern is below the smallest that the slices keep."""
    if least < run.retention.least_pattern(run.encoding):
        asked, floor = decimal_text(min(question.magnitudes)), run.retention.floor
        again = "--keep slices" if asked == "0" else f"--keep floor={asked}, or slices"
        raise StoreError(
            f"--magnitude {asked} is below {floor}, and {run.path} was captured with --keep floor={floor}: its slices, "
            f"which {flag} reads, are zero below that. Ask for {floor} or more, leave out {flag}, or capture the model "
            f"again with {again}"
        )
