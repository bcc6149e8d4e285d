"""All statistics of the slices, by name. A new one is a file and a row here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from analyze.quantisation.statistic import Quantisation
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.feature_hits import FeatureHits
from analyze.statistics.magnitudes import Magnitudes
from analyze.statistics.moments import Moments
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from analyze.statistics.signed_extremes import SignedExtremes
from analyze.statistics.statistic import Statistic
from analyze.statistics.token_magnitudes import TokenMagnitudes

__all__ = ["STATISTICS"]

STATISTICS: Mapping[str, type[Statistic]] = MappingProxyType(
    {
        statistic.name: statistic
        for statistic in (
            Exceedances,
            FeatureHits,
            LayerPeaks,
            Magnitudes,
            Moments,
            PositionPeaks,
            Quantisation,
            SignedExtremes,
            TokenMagnitudes,
        )
    }
)
