"""The object that reports and figures are made of: plain data in frozen dataclasses, which JSON takes as it is.

Names are those of the command's own documents (docs/results.md). A section that a store cannot answer is an ``Absent``,
which says why. Magnitudes are ascending decimals in text; everything indexed by magnitude follows their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Absent",
    "Asked",
    "Coverage",
    "Curves",
    "Emergence",
    "ExpertShare",
    "FeatureView",
    "Overview",
    "PhaseMap",
    "PositionProfile",
    "QuantisationView",
    "Saturation",
    "ShareStep",
    "StoreFacts",
    "StoreView",
    "SweepPoint",
    "TableView",
    "TokenCount",
    "TokenPeak",
]

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Absent:
    """A section that is not there: ``absent`` says why, in a sentence, and ``kind`` in two or three words."""

    absent: str
    kind: str = "Not in this store"


@dataclass(frozen=True)
class ShareStep:
    """A share that may be chosen: as text, and exactly."""

    text: str
    numerator: int
    denominator: int


@dataclass(frozen=True)
class Asked:
    """The question. ``chosen`` and ``layer_share``, ``position_share`` are places in the lists beside them.

    ``chosen_because``: the magnitude that is looked at first, and why that one, in words.

    ``by_count``: each magnitude is answered by itself, and there are no critical ones.
    """

    definition: str
    source: str
    unit: str
    layer_unit: str
    scope: str
    position_coverage: str
    layers: str
    positions: str
    engine: str
    by_count: bool
    in_gain_units: bool
    magnitudes: tuple[str, ...]
    chosen: int
    chosen_because: str
    layer_shares: tuple[ShareStep, ...]
    layer_share: int
    position_shares: tuple[ShareStep, ...]
    position_share: int
    words: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StoreFacts:
    """What a store is and what of it was looked at.

    ``model`` and ``provenance`` are the store's own attributes. ``sequences_complete`` of ``sequences_in_store``;
    ``bytes_on_disk`` is None of a remote store, ``raw_bytes`` what its arrays take decoded. ``perplexity`` is None
    where there are no losses. ``layers_total`` and ``positions_total`` are C and T of docs/definitions.md.
    """

    path: str
    name: str
    label: str
    model: Mapping[str, Any]
    model_words: Mapping[str, str]
    provenance: Mapping[str, Any]
    retention: str
    bytes_on_disk: int | None
    raw_bytes: int
    sequences_in_store: int
    sequences_complete: int
    sequences: tuple[int, ...]
    layers: tuple[int, ...]
    sites: tuple[str, ...]
    features: int
    layers_total: int
    layers_needed: int
    positions_total: int
    positions_needed: int | None
    positions_by_sequence: tuple[int, ...]
    sequences_needed: int | None
    answered_from: str
    shares_words: str
    perplexity: float | None
    nonfinite_values: int
    excluded_cells: tuple[str, ...]


@dataclass(frozen=True)
class SweepPoint:
    """The counts at one magnitude, at the shares asked: a row of the command's table."""

    magnitude: str
    outliers: int
    unique_features: int
    outliers_per_sequence: float
    interval: tuple[float, float] | None
    mean_layer_percent: float | None
    mean_position_percent: float | None


@dataclass(frozen=True)
class Coverage:
    """Counts from which every magnitude, layer share and position share of the lists is answered exactly.

    ``threshold_of`` gives each magnitude's place among the store's distinct ``thresholds`` (bit patterns of
    ``encoding``, ascending). ``pairs`` and ``features`` are packed integers (``analyze.overviews.packing``). ``pairs``
    are all (sequence, feature) pairs that meet the least shares at the least magnitude, by feature and sequence, in
    twelve lists:

    1. places of their sequences; 2. features, as differences; 3. at how many thresholds each is held;
    4. layers affected and 5. how many of the ``position_shares`` are met, threshold by threshold: at the first of all
       pairs, at others of those still held, in the order of the threshold before sorted stably by shares met, then
       layers; there how much less it is than before, of shares d as 2 d or, where it is more, -2 d - 1;
    6. which pairs positions are known of exactly, as differences of their places, 7. their peaks (none for a majority),
       and 8. at each threshold of each how many positions are hit above what the last share met needs;
    9. where ``pairs_exact`` is ``listed``, the sum of that over all pairs, known or not, threshold by threshold, by
       layers and shares met;
    10. unless the question is answered ``by_count``, which of those known ladders are held of, as differences of their
        places, and the largest patterns at which each of them reaches 11. each number of layers, from the least that
        can be chosen, and 12. each of the ``position_shares``: as far as they are not below the least threshold; the
        first as it is, the others as how much they are below the one before. A pair's critical pattern at any shares is
        the lesser of two, and a majority's that of so many of its pairs as it takes.

    Ladders are held of all that is among the first 200 by critical magnitude at any shares (of a majority, of the pairs
    of such features), and of what is looked at closely. ``pairs_exact``: ``all`` pairs are known, ``none``, or at least
    those that can be ``listed`` (the first 200, at any magnitude and shares; ``by_count`` by peak). ``features``, for
    definitions that count features: the same where sequences are pooled; else features, as differences, and their
    peaks. None for those that count pairs.
    """

    encoding: str
    thresholds: tuple[int, ...]
    threshold_of: tuple[int, ...]
    pairs: str
    pairs_exact: str
    features: str | None


@dataclass(frozen=True)
class PhaseMap:
    """``outliers``: [layer share][magnitude], at the position share asked; ``layer_shares`` as text."""

    layer_shares: tuple[str, ...]
    outliers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TokenPeak:
    """One of a feature's largest values. ``token_id`` is None where the store has none, ``text`` too."""

    sequence: int
    position: int
    peak: float
    token_id: int | None
    text: str | None


@dataclass(frozen=True)
class TokenCount:
    """How often a token occurs in the analysed sequences, and at how many of its places the feature is hit.

    ``hits``: at each magnitude up to the last with any.
    """

    token_id: int
    text: str | None
    hits: tuple[int, ...]
    occurrences: int


@dataclass(frozen=True)
class ExpertShare:
    """Hits of one feature in the tokens that an expert of a layer was given, and how many tokens these are.

    ``hits``: at each magnitude up to the last with any; None below the floor of the slices.
    """

    layer: int
    expert: int
    hits: tuple[int | None, ...]
    tokens: int


@dataclass(frozen=True)
class FeatureView:
    """Where one feature lives. ``counted``: whether the rule counts it at any magnitude asked, at the shares asked.

    ``critical_magnitude`` is the largest among its units. ``layer_peak``: [site][layer], over all analysed sequences.
    ``sequence_peak``: one for each. ``positions``: its largest values. A position is hit where any cell is:
    ``position_hits``, [magnitude][bin], by the ``position_bins``, which have ``position_tokens``;
    ``median_magnitude``: at each magnitude the median, over the positions hit, of their largest value, None where none
    is. ``tokens`` and ``experts`` (of the site ln_mlp): all that are among the 12 with most hits at any magnitude.
    Of tokens with as many the rarer is first, then the lesser id; of experts that of the lower layer, then number.
    """

    feature: int
    counted: bool
    critical_magnitude: float | None
    peak: float
    layer_peak: tuple[tuple[float, ...], ...]
    sequence_peak: tuple[float, ...]
    positions: tuple[TokenPeak, ...]
    position_bins: tuple[str, ...]
    position_tokens: tuple[int, ...]
    position_hits: tuple[tuple[int, ...], ...]
    median_magnitude: tuple[float | None, ...]
    tokens: tuple[TokenCount, ...]
    experts: tuple[ExpertShare, ...] | Absent


@dataclass(frozen=True)
class Curves:
    """Of each tensor (a norm output by its site's name, or the residual that entered that norm) and layer.

    ``top``: the three largest magnitudes and ``median`` the median one, means over sequences; ``kurtosis`` and
    ``max_median`` as docs/definitions.md defines them. All [tensor][layer], ``top`` [place][tensor][layer]; None where
    there is nothing to say. ``formulas``: of each, in words. ``left_out``: tensors that cannot be had, and why.
    """

    tensors: tuple[str, ...]
    layers: tuple[int, ...]
    top: tuple[tuple[tuple[float | None, ...], ...], ...]
    median: tuple[tuple[float | None, ...], ...]
    kurtosis: tuple[tuple[float | None, ...], ...]
    max_median: tuple[tuple[float | None, ...], ...]
    formulas: Mapping[str, str]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class PositionProfile:
    """Hits by position of a sequence: [site][magnitude][bin], over all layers and sequences, and ``tokens`` [bin].

    ``values_per_token``: (layer, feature) pairs behind each token and site. ``magnitudes``: those that the slices
    answer. ``bins``: 0, 1, 2, 3, 4-7, 8-15 and so on.
    """

    sites: tuple[str, ...]
    magnitudes: tuple[str, ...]
    bins: tuple[str, ...]
    tokens: tuple[int, ...]
    values_per_token: int
    hits: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Saturation:
    """Growth with sequences, [magnitude][n - 1]: see ``analyze.saturation``."""

    tokens: tuple[float, ...]
    unique_features: tuple[tuple[float, ...], ...]
    interval: tuple[tuple[tuple[float, float], ...], ...]
    outliers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TableView:
    """A table as a person reads it; ``right`` says which columns are numbers."""

    name: str
    title: str
    headings: tuple[str, ...]
    right: tuple[bool, ...]
    cells: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class QuantisationView:
    """``sqnr_db`` and ``relative_error``: [format][site][layer], of all positions; ``tables`` sum them up."""

    formats: tuple[str, ...]
    sites: tuple[str, ...]
    layers: tuple[int, ...]
    sqnr_db: tuple[tuple[tuple[float | None, ...], ...], ...]
    relative_error: tuple[tuple[tuple[float | None, ...], ...], ...]
    tables: tuple[TableView, ...]


@dataclass(frozen=True)
class Emergence:
    """A row for each store at the chosen magnitude, with the values of ``names``: see ``analyze.emergence``."""

    magnitude: str
    names: tuple[str, ...]
    rows: tuple[Row, ...]
    median_from: tuple[str, ...]


@dataclass(frozen=True)
class StoreView:
    """All that is shown of one store."""

    facts: StoreFacts
    sweep: tuple[SweepPoint, ...]
    coverage: Coverage
    phase: PhaseMap
    features: tuple[FeatureView, ...]
    curves: Curves | Absent
    positions: PositionProfile | Absent
    saturation: Saturation | Absent
    quantisation: QuantisationView | Absent


@dataclass(frozen=True)
class Overview:
    """All that is shown of some stores. ``notes``: what keeps them from being compared like with like."""

    made_by: str
    asked: Asked
    stores: tuple[StoreView, ...]
    emergence: Emergence | Absent
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        from analyze.formats.html import render_tables
        from analyze.overviews.tables import overview_tables

        return "".join(render_tables(overview_tables(self)))
