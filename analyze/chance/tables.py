"""Tables of the null, of overlaps and of growth, each with its definition in words below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xarray as xr

from analyze.tables.definition_columns import DEFINITION_FIELDS, definition_values
from analyze.tables.likeness import said_of_each
from analyze.tables.names import labelled
from analyze.tables.table import Field, Table, Value, plain, shown
from analyze.tables.wording import definition_notes, words_of_all

__all__ = ["null_table", "overlap_table", "saturation_table"]

_STORE = (Field("store", "Store", hidden=True), Field("model", "Model", right=False))


_MAGNITUDE = (Field("magnitude", "", hidden=True), Field("", "Magnitude", programs=False))
"""For programs a number, for people the decimal that was asked."""


def _few(value: Value) -> str:
    """A count that chance expects: three figures, and small ones as powers of ten."""
    return shown(value) if not isinstance(value, float) else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _names(datasets: Sequence[xr.Dataset]) -> list[str]:
    stores = [found.attrs["store"] for found in datasets]
    return labelled([found.attrs["model"] for found in datasets], stores)


def _defined(datasets: Sequence[xr.Dataset]) -> list[str]:
    """What counts, and where each store's answer came from."""
    about, names = [found.attrs for found in datasets], _names(datasets)
    words = words_of_all([one["words"] for one in about], names)
    answered = said_of_each([one["answered_from"] for one in about], names)
    shares = [one["shares"] for one in about]
    return definition_notes(about[0]["definition"], about[0]["altered"], words, shares, answered, names)


def _magnitudes(found: xr.Dataset) -> Iterator[tuple[float, str]]:
    """Each magnitude as a float, and as the exact decimal."""
    return zip(found.magnitude.values, found.magnitude_text.values.tolist(), strict=True)


def _between(mean: xr.DataArray, low: float, high: float) -> str:
    """``155 [149, 160]``."""
    return f"{_few(float(mean))} [{_few(float(low))}, {_few(float(high))}]"


def null_table(datasets: Sequence[xr.Dataset]) -> Table:
    """A row for each store, criterion and magnitude of ``null``'s Datasets."""
    rows: list[tuple[Value, ...]] = []
    for name, found in zip(_names(datasets), datasets, strict=True):
        for i, (magnitude, text) in enumerate(_magnitudes(found)):
            for c, criterion in enumerate(found.criterion.values):
                at = found.isel(magnitude=i, criterion=c)
                low, high = at.interval.values
                unique_low, unique_high = at.interval_unique.values
                values = (
                    *(found.attrs["store"], name, magnitude, text, criterion),
                    *(at.observed.values, at.expected.values, low, high, _between(at.expected, low, high)),
                    *(at.p_value.values, at.observed_unique.values, at.expected_unique.values),
                    *(unique_low, unique_high, _between(at.expected_unique, unique_low, unique_high)),
                    *definition_values(found.attrs),
                )
                rows.append(tuple(plain(value) for value in values))
    about = datasets[0].attrs
    return Table(
        "null",
        "Against chance: feature labels permuted in each tensor",
        (
            *_STORE,
            *_MAGNITUDE,
            Field("criterion", "Shares asked of", right=False),
            Field("observed", "Outliers"),
            Field("expected", "", hidden=True),
            Field("expected_low", "", hidden=True),
            Field("expected_high", "", hidden=True),
            Field("", "By chance [95%]", programs=False),
            Field("p_value", "p", _few),
            Field("unique_features", "Unique features"),
            Field("unique_expected", "", hidden=True),
            Field("unique_expected_low", "", hidden=True),
            Field("unique_expected_high", "", hidden=True),
            Field("", "By chance [95%]", programs=False),
            *DEFINITION_FIELDS,
        ),
        tuple(rows),
        (
            *_defined(datasets),
            f"By chance: the same count with the {about['permuted']} permuted, the same way in all sequences, so that "
            f"each keeps its peaks and loses its agreement with the others; the mean over {about['expected_from']} "
            "and, of unique features, over those drawn. In brackets: 2.5 and 97.5 percentiles of "
            f"{about['permutations']:,} permutations, seed {about['seed']}; "
            "p: share of them, and of the data itself, that count at least what is observed.",
            f"Layers: the position share is not asked for, an exact comparison of like with like. {_moved(about)}",
        ),
    )


def _moved(about: Mapping[str, Any]) -> str:
    """What becomes of the position share under a permutation."""
    if about["coverage_moves"] == "as a whole":
        return (
            "Layers and positions: a feature's position coverage moves as a whole, since peaks do not know in which "
            "layer a position was hit."
        )
    return "Layers and positions: the hits that make the position share move with their layers, like with like too."


def overlap_table(datasets: Sequence[xr.Dataset]) -> Table:
    """A row for each store and sequence of ``overlap``'s Datasets."""
    rows: list[tuple[Value, ...]] = []
    for name, found in zip(_names(datasets), datasets, strict=True):
        for row, sequence in enumerate(found.sequence.values):
            others = found.jaccard.values[row]
            apart = [float(v) for i, v in enumerate(others) if i != row and v == v]
            values = (
                *(found.attrs["store"], name, found.attrs["magnitude"], sequence, found.features.values[row]),
                *(found.mean_with_others.values[row], min(apart, default=None), max(apart, default=None)),
                *definition_values(found.attrs),
            )
            rows.append(tuple(plain(value) for value in values))
    means = "; ".join(
        f"{name}: {shown(float(found.mean_jaccard))}" for name, found in zip(_names(datasets), datasets, strict=True)
    )
    about = datasets[0].attrs
    return Table(
        "overlap",
        f"Overlap between sequences at magnitude {about['magnitude_text']}",
        (
            *_STORE,
            _MAGNITUDE[0],
            Field("sequence", "Sequence"),
            Field("features", "Features"),
            Field("jaccard_mean", "Mean Jaccard"),
            Field("jaccard_least", "Least"),
            Field("jaccard_largest", "Largest"),
            *DEFINITION_FIELDS,
        ),
        tuple(rows),
        (
            *_defined(datasets),
            "Features: those that meet the rule in the sequence alone. Jaccard: of two sequences, the features that "
            "both have over those that either has; nothing where neither has any. Mean, least, largest: with the "
            "other sequences.",
            f"Mean over all pairs of sequences: {means}.",
        ),
    )


def saturation_table(datasets: Sequence[xr.Dataset]) -> Table:
    """A row for each store, magnitude and number of sequences of ``saturation``'s Datasets."""
    rows: list[tuple[Value, ...]] = []
    for name, found in zip(_names(datasets), datasets, strict=True):
        for i, (magnitude, text) in enumerate(_magnitudes(found)):
            for n, drawn in enumerate(found.drawn.values):
                at = found.isel(magnitude=i, drawn=n)
                low, high = at.unique_interval.values
                values = (
                    *(found.attrs["store"], name, magnitude, text, drawn, at.tokens.values),
                    *(at.unique_features.values, low, high, _between(at.unique_features, low, high)),
                    *(at.new_features.values, at.outliers.values),
                    *definition_values(found.attrs),
                )
                rows.append(tuple(plain(value) for value in values))
    about = datasets[0].attrs
    return Table(
        "saturation",
        "Does the count grow with tokens?",
        (
            *_STORE,
            *_MAGNITUDE,
            Field("sequences", "Sequences"),
            Field("tokens", "Tokens"),
            Field("unique_features", "", hidden=True),
            Field("unique_low", "", hidden=True),
            Field("unique_high", "", hidden=True),
            Field("", "Unique features [95%]", programs=False),
            Field("new_features", "New", _few),
            Field("outliers", "Outliers"),
            *DEFINITION_FIELDS,
        ),
        tuple(rows),
        (
            *_defined(datasets),
            "Unique features: those that meet the rule in at least one of n sequences alone, the mean over all choices "
            f"of n of the analysed sequences, exactly; in brackets: 2.5 and 97.5 percentiles of "
            f"{about['orders']:,} random orders, seed {about['seed']}. New: what the n-th sequence adds to that mean.",
            "Outliers: what the definition counts in the first n sequences of the store, its shares taken of those.",
        ),
    )
