"""Exceedances by layer, by position and by expert: where in a model, and of which tokens, large values are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.criteria.top_values import TopValues
from analyze.evaluation.blocks import BlockExceedances, BlockPositionHits, BlockTopValues
from analyze.opened import opened
from analyze.quantities import (
    Magnitudes,
    Share,
    ShareWords,
    decimal_text,
    magnitude_words,
    parse_magnitudes,
    parse_share,
)
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.expert_hits import ExpertHits
from analyze.statistics.measure import measure
from analyze.statistics.position_hits import PositionHits
from analyze.statistics.selection import EVERYTHING, Selection, choose
from analyze.statistics.statistic import Statistic
from analyze.statistics.tensors import Tensor, find_tensors
from analyze.thresholds.definitions import ONE_HIT, Minimum
from analyze.thresholds.knobs import LAYER_UNITS, parse_minimum_hits
from schemas.errors import InputError, StoreError
from schemas.run import Run

if TYPE_CHECKING:
    import xarray as xr

    from analyze.thresholds.asking import AnyRun

__all__ = ["EXPERTS_SITE", "exceedances_by", "require_routing"]

EXPERTS_SITE = "ln_mlp"
"""The site whose tokens go to experts."""

Measure = Callable[[list[Statistic], Selection], dict[str, Any]]


def exceedances_by(
    store: AnyRun,
    by: str,
    magnitude: Magnitudes = "6",
    selection: Selection = EVERYTHING,
    *,
    positions: ShareWords = "6%",
    minimum_hits: str | int = "1",
    layer_unit: str = "cell",
    **options: Any,
) -> xr.Dataset:
    """Hits ``|x| >= magnitude`` by ``layer``, ``position`` or ``expert``: a Dataset whose counts are int64.

    - layer: over (site, layer, magnitude) ``hits``, ``values`` looked at, ``tokens`` with at least one hit and
      ``features`` with at least ``minimum_hits``, a count or a share of the tokens; and, of stores with all values,
      ``top`` (site, layer, place) and ``median`` (site, layer): the three largest magnitudes and the median one of a
      sequence, their means over sequences.
    - position: ``hits`` (site, layer, position, magnitude), ``rows`` (site, layer, position) tokens looked at.
    - expert: over (layer, expert, magnitude), of the tokens of ``ln_mlp`` that went to the expert, ``hits``,
      ``features`` with at least ``minimum_hits`` in them, and ``outlier_features``, hit in at least the share
      ``positions`` of them; ``tokens`` (layer, expert). A token counts with each of its experts.

    ``layer_unit``: with ``block`` a layer's tensors at all chosen sites are one, at each place the largest magnitude
    of them, which is NaN where all are; ``site`` is then their names, joined. Not by expert, whose site is one.

    ``options`` are those of ``measure``. Raises InputError for another ``by`` or unit, or a gain that is 0 or not
    finite where ``selection`` is in units of it, StoreError where slices, values below a floor, gains or routing were
    not kept.

    >>> exceedances_by("runs/tiny.zarr", "layer", "6,8").hits.sel(site="ln_attn").values.tolist()
    [[24, 16], [24, 16]]
    >>> exceedances_by("runs/tiny.zarr", "position").hits.sum(["site", "layer"]).values.ravel().tolist()
    [12, 12, 12, 12, 12, 12, 12, 12]
    """
    run = opened(store)
    if by not in _BY:
        raise InputError(f"--by {by!r} is not known; there are: {', '.join(_BY)}")
    magnitudes = tuple(decimal_text(m) for m in parse_magnitudes(magnitude_words(magnitude)))
    _require_above_floor(run, by, magnitudes, selection.in_gain_units)
    minimum = parse_minimum_hits(minimum_hits)
    if by == "position" and minimum != ONE_HIT:
        raise InputError(
            f"--minimum-hits {minimum.text} says when a feature or layer counts, and --by position counts hits "
            "themselves: leave it out, or ask --by layer"
        )
    if layer_unit not in LAYER_UNITS:
        raise InputError(f"--layer-unit {layer_unit!r} is not known; it takes: {', '.join(LAYER_UNITS)}")
    if by == "expert" and layer_unit == "block":
        raise InputError(
            f"--by expert is about {EXPERTS_SITE} alone, so that a block is that one tensor: leave out --layer-unit"
        )
    rule = _Rule(parse_share(positions, "--positions"), minimum, layer_unit == "block")

    def measured(statistics: list[Statistic], part: Selection) -> dict[str, Any]:
        return measure(run, statistics, part, **options)

    found: xr.Dataset = _BY[by](run, magnitudes, selection, rule, measured)
    found.attrs |= {
        "by": by,
        "store": os.fspath(run.path),
        "model": run.info.model.name,
        "features": run.dimensions.features,
        "minimum_hits": minimum.text,
        "layer_unit": layer_unit,
        "in_gain_units": selection.in_gain_units,
    }
    return found


@dataclass(frozen=True)
class _Rule:
    """The share of an expert's tokens that makes an outlier feature, and the hits that make a feature hit.

    ``blocks``: whether a layer's tensors at all sites are one.
    """

    positions: Share
    minimum: Minimum
    blocks: bool


def _least(rule: _Rule, tokens: xr.DataArray) -> xr.DataArray:
    """Hits that a feature needs where so many tokens are looked at; at least 1."""
    return tokens.copy(data=np.array([rule.minimum.of(int(n)) for n in tokens.values.ravel()]).reshape(tokens.shape))


def _require_above_floor(run: Run, by: str, magnitudes: tuple[str, ...], in_gain_units: bool) -> None:
    """Raise StoreError for values that the slices do not keep; in units of gain ``measure`` does, which knows them."""
    if not run.retention.slices:
        raise StoreError(
            f"--by {by} reads slices, and {run.path} holds peaks only: capture the model again with --keep slices"
        )
    floor, least = run.retention.floor, min(magnitudes, key=Fraction)
    if not in_gain_units and not run.retention.keeps(Fraction(least), run.encoding):
        raise StoreError(
            f"--magnitude {least} is below {floor}, and {run.path} was captured with --keep floor={floor}: its slices, "
            f"which --by {by} reads, are zero below that. Ask for {floor} or more, or capture the model again with "
            "--keep slices"
        )


def _by_layer(
    run: Run, magnitudes: tuple[str, ...], selection: Selection, rule: _Rule, measured: Measure
) -> xr.Dataset:
    whole = run.retention.floor is None
    chosen = choose(run, selection)
    tensors, _reasons = find_tensors(run, chosen, ("norm output",))
    positions = run.dimensions.positions
    statistics: list[Statistic] = [Exceedances(magnitudes), PositionHits(magnitudes, positions), TopValues(tensors)]
    if rule.blocks:
        blocks = _Blocks.of(run, selection)
        statistics = [
            BlockExceedances(magnitudes, blocks.others),
            BlockPositionHits(magnitudes, positions, blocks.others),
            BlockTopValues((Tensor("norm output", chosen.sites[0]),), blocks.others),
        ]
        selection = blocks.selection
    with_top = whole and (rule.blocks or bool(tensors))
    found = measured(statistics if with_top else statistics[:2], selection)
    by_feature, by_position = (found[statistic.name] for statistic in statistics[:2])
    rows = by_position.rows.sum("position")
    answer: xr.Dataset = by_position[["tokens"]].assign(
        hits=by_feature.hits.sum("feature"),
        values=rows * run.dimensions.features,
        features=(by_feature.hits >= _least(rule, rows)).sum("feature"),
        looked_at=rows,
    )
    if with_top:
        top = found[statistics[2].name].mean("sequence").rename(tensor="site")
        answer = answer.assign(top=top.top, median=top["median"])
    answer.attrs["excluded"] = by_position.attrs["excluded"]
    return blocks.named(answer) if rule.blocks else answer


def _by_position(
    run: Run, magnitudes: tuple[str, ...], selection: Selection, rule: _Rule, measured: Measure
) -> xr.Dataset:
    positions = run.dimensions.positions
    if not rule.blocks:
        found: xr.Dataset = measured([PositionHits(magnitudes, positions)], selection)["position-hits"]
        return found[["hits", "rows"]]
    blocks = _Blocks.of(run, selection)
    statistic = BlockPositionHits(magnitudes, positions, blocks.others)
    return blocks.named(measured([statistic], blocks.selection)[statistic.name][["hits", "rows"]])


@dataclass(frozen=True)
class _Blocks:
    """What a pass over blocks is given: the first site, beside which the ``others`` are read; ``label``: all sites."""

    selection: Selection
    others: tuple[str, ...]
    label: str

    @staticmethod
    def of(run: Run, selection: Selection) -> _Blocks:
        chosen = choose(run, selection)
        first = dataclasses.replace(selection, sites=chosen.sites[:1])
        return _Blocks(first, chosen.arrays[1:], "+".join(chosen.sites))

    def named(self, found: xr.Dataset) -> xr.Dataset:
        """``found`` under the name of all sites."""
        (first,) = found.site.values.tolist()
        named = found.assign_coords(site=[self.label])
        excluded = [line.replace(first, self.label, 1) for line in found.attrs.get("excluded", [])]
        return named.assign_attrs(excluded=excluded)


def require_routing(run: Run) -> None:
    """Raise StoreError, with the reason, where the store does not say which experts each token went to."""
    if "expert_id" not in run:
        routing = run.info.routing
        why = (routing.absent if routing else None) or (
            "it was captured by an older version" if run.info.model.experts else "the model has no experts"
        )
        raise StoreError(f"--by expert reads expert_id, which {run.path} has not: {why}")


def _by_expert(
    run: Run, magnitudes: tuple[str, ...], selection: Selection, rule: _Rule, measured: Measure
) -> xr.Dataset:
    require_routing(run)
    if selection.sites not in (None, (EXPERTS_SITE,)):
        asked = ",".join(selection.sites or ())
        raise InputError(f"--by expert is about {EXPERTS_SITE}, whose tokens go to experts: leave out --sites {asked}")
    experts = run.array("expert_peak").shape[-1] if "expert_peak" in run else int(run.info.model.experts or 0)
    part = dataclasses.replace(selection, sites=(EXPERTS_SITE,))
    found = measured([ExpertHits(magnitudes, experts)], part)["expert-hits"].isel(site=0, drop=True)
    needed = np.array([rule.positions.of(int(n)) for n in found.tokens.values.ravel()]).reshape(found.tokens.shape)
    enough = (found.tokens > 0) & (found.hits >= found.tokens.copy(data=np.maximum(needed, 1)))
    answer: xr.Dataset = found[["tokens"]].assign(
        hits=found.hits.sum("feature", dtype=np.int64),
        features=(found.hits >= _least(rule, found.tokens)).sum("feature"),
        outlier_features=enough.sum("feature"),
    )
    answer.attrs = {"positions": rule.positions.text, "excluded": found.attrs.get("excluded", [])}
    return answer


_BY: Mapping[str, Callable[[Run, tuple[str, ...], Selection, _Rule, Measure], Any]] = MappingProxyType(
    {"layer": _by_layer, "position": _by_position, "expert": _by_expert}
)
