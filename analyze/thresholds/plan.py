"""What answering a question from a store takes, decided before anything is read: pure integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from analyze.gain import require_gains
from analyze.quantities import counted, decimal_text
from analyze.sequences import analysed_sequences
from analyze.statistics.selection import Chosen, chosen_sites
from analyze.thresholds.question import Question
from schemas.bits import ENCODINGS, Encoding, magnitude_value, threshold_bits
from schemas.errors import InputError, StoreError
from schemas.layout import Dimensions, layer_peak_name, position_peak_name
from schemas.run import Run

__all__ = ["MAX_DETAILED_THRESHOLDS", "Plan", "make_plan"]

MAX_DETAILED_THRESHOLDS = 256
"""Most distinct thresholds of one detailed question: hit counts are kept per unit and threshold while reading."""


@dataclass(frozen=True)
class Plan:
    """A question made definite for one store.

    ``chosen``: sites and the stored arrays of each, layers, sequences and positions that are analysed;
    ``stored_sites``: what the store holds by itself. ``positions_of``: how many positions are looked at in each
    sequence. ``encoding``: that of the patterns compared, float32 in units of gain. ``thresholds``
    are the distinct bit patterns of the magnitudes, ascending, and ``threshold_of`` says for each magnitude which
    one is its own. ``layers_total`` is C of docs/definitions.md (cells or blocks), ``positions_total`` the positions
    of one scope; of the longest sequence, where they differ. ``needs_slices``: the flags that the stored peaks cannot
    answer. ``by_count``: whether hits are counted at each threshold, where no order statistic of peaks decides.
    """

    question: Question
    chosen: Chosen
    stored_sites: tuple[str, ...]
    positions_of: tuple[int, ...]
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
    needs_slices: tuple[str, ...]
    by_count: bool

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites looked at."""
        return self.chosen.sites

    @property
    def arrays(self) -> tuple[str, ...]:
        """The stored arrays of the sites, in their order."""
        return self.chosen.arrays

    @property
    def sequences(self) -> tuple[int, ...]:
        """The sequences analysed."""
        return self.chosen.sequences

    @property
    def cells(self) -> int:
        """How many (site, layer) tensors are looked at."""
        return len(self.sites) * len(self.chosen.layers)

    @property
    def uneven(self) -> bool:
        """True where sequences differ in how many positions are looked at."""
        return len(set(self.positions_of)) > 1

    @property
    def minimum_hits(self) -> int:
        """Hits that make a layer an affected one, in a scope of ``positions_total``."""
        return self.question.definition.minimum_hits.of(self.positions_total)

    @property
    def partial(self) -> bool:
        """True where sequences of the store are left out because they are not complete."""
        return len(self.sequences) < self.dimensions.sequences

    @property
    def sequence_positions_needed(self) -> int:
        """Positions that a feature needs when the rule is applied to one sequence alone, the longest one."""
        return self.question.positions.of(max(self.positions_of))

    @property
    def positions_at_least(self) -> int | None:
        """Positions of a scope that are needed; None where no one number is: S% is not a union, or sequences differ."""
        union = self.question.definition.position_coverage == "union"
        pooled = self.question.definition.scope == "pooled"
        return self.positions_needed if union and (pooled or not self.uneven) else None

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
    chosen = _chosen(run, question)
    positions_of = tuple(int(chosen.positions(run, sequence).size) for sequence in chosen.sequences)
    if not any(positions_of):
        raise InputError(f"{run.path} has no {question.tokens} tokens at the chosen positions: choose other --tokens")
    pooled = definition.scope == "pooled"
    positions_total = sum(positions_of) if pooled else max(positions_of)
    minimum = definition.minimum_hits.of(positions_total)
    if minimum > positions_total:
        raise InputError(
            f"--minimum-hits {definition.minimum_hits.text} is out of range: {counted(positions_total, 'position')} "
            f"{'is' if positions_total == 1 else 'are'} looked at, so no layer has more hits"
        )
    flags = _sliced_knobs(question, chosen, dimensions, minimum)
    if question.engine == "peaks" and flags:
        raise InputError(f"--engine peaks cannot answer {flags[0]}, which takes the slices: leave out --engine")
    count_engine = "slices" if flags else "peaks" if question.engine == "auto" else question.engine
    flag = "--details" if question.details else "--engine slices" if count_engine == "slices" else None
    flag = flags[0] if flags else flag
    _require(run, chosen.arrays, count_engine, flag)
    layers_total = len(chosen.layers) * (1 if definition.layer_unit == "block" else len(chosen.sites))
    share = definition.sequence_share
    encoding = ENCODINGS["float32"] if question.in_gain_units else run.encoding
    patterns = [threshold_bits(magnitude, encoding) for magnitude in question.magnitudes]
    thresholds = tuple(sorted(set(patterns)))
    least_gain = require_gains(run, chosen) if question.in_gain_units else None
    if flag is not None:
        _require_above_floor(run, question, flag, least_gain)
    if thresholds[0] == 0 and min(positions_of) < definition.minimum_hits.of(min(positions_of)):
        raise InputError("--magnitude 0 counts everything, and a sequence has too few such tokens. Ask for more than 0")
    by_count = definition.position_coverage != "union" or (pooled and minimum > 1)
    if (question.details or by_count) and len(thresholds) > MAX_DETAILED_THRESHOLDS:
        what = "--details" if question.details else _by_count_flag(question)
        raise InputError(
            f"{what} at {len(thresholds):,} distinct magnitudes; the limit is {MAX_DETAILED_THRESHOLDS}: "
            f"take a larger step, or leave out {what}"
        )
    return Plan(
        question=question,
        chosen=chosen,
        stored_sites=tuple(run.info.stored_sites),
        positions_of=positions_of,
        dimensions=dimensions,
        encoding=encoding,
        thresholds=thresholds,
        threshold_of=tuple(thresholds.index(pattern) for pattern in patterns),
        layers_total=layers_total,
        layers_needed=question.layers.of(layers_total),
        positions_total=positions_total,
        positions_needed=question.positions.of(positions_total),
        sequences_needed=None if share is None else math.ceil(share * len(chosen.sequences)),
        count_engine=count_engine,
        needs_slices=flags,
        by_count=by_count,
    )


def _chosen(run: Run, question: Question) -> Chosen:
    d = run.dimensions
    sites = chosen_sites(run, question.sites)
    layers, positions = (
        None if asked is None else asked.of(total, run.path)
        for asked, total in ((question.layers_range, d.layers), (question.positions_range, d.positions))
    )
    return Chosen(
        sites,
        tuple(run.info.site_array(site) for site in sites),
        tuple(range(d.layers)) if layers is None else layers,
        analysed_sequences(run, question.partial),
        0 if positions is None else positions[0],
        d.positions if positions is None else positions[-1] + 1,
        None if question.tokens == "all" else question.tokens,
        question.in_gain_units,
    )


def _sliced_knobs(question: Question, chosen: Chosen, d: Dimensions, minimum: int) -> tuple[str, ...]:
    """The knobs, as flags, that peaks over all layers and positions of the stored values do not answer."""
    definition = question.definition
    asked = {
        f"--position-coverage {definition.position_coverage}": definition.position_coverage != "union",
        f"--minimum-hits {definition.minimum_hits.text}": minimum > 1,
        f"--layers-range {question.layers_range and question.layers_range.text}": len(chosen.layers) < d.layers,
        f"--positions-range {question.positions_range and question.positions_range.text}": (
            chosen.stop - chosen.start < d.positions
        ),
        f"--tokens {question.tokens}": chosen.tokens is not None,
        "--in-gain-units": question.in_gain_units,
    }
    return tuple(flag for flag, is_asked in asked.items() if is_asked)


def _by_count_flag(question: Question) -> str:
    definition = question.definition
    if definition.position_coverage != "union":
        return f"--position-coverage {definition.position_coverage}"
    return f"--minimum-hits {definition.minimum_hits.text}"


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


def _require_above_floor(run: Run, question: Question, flag: str, least_gain: Fraction | None) -> None:
    """Raise StoreError where a hit may be a value that the slices do not keep."""
    least = min(question.magnitudes) * (1 if least_gain is None else least_gain)
    if not run.retention.keeps(least, run.encoding):
        asked, floor = decimal_text(min(question.magnitudes)), run.retention.floor
        if least_gain is not None:
            raise StoreError(
                f"--magnitude {asked} in units of a gain of {float(least_gain):.6g} is {float(least):.6g}, below "
                f"{floor}, and {run.path} was captured with --keep floor={floor}: its slices are zero below that. "
                "Ask for a larger magnitude, leave out --in-gain-units, or capture the model again with --keep slices"
            )
        again = "--keep slices" if asked == "0" else f"--keep floor={asked}, or slices"
        raise StoreError(
            f"--magnitude {asked} is below {floor}, and {run.path} was captured with --keep floor={floor}: its slices, "
            f"which {flag} reads, are zero below that. Ask for {floor} or more, leave out {flag}, or capture the model "
            f"again with {again}"
        )
