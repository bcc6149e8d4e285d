"""The report's charts as Vega-Lite specifications without data, which the page fills and fills again."""

from __future__ import annotations

from typing import Any

from schemas.errors import MissingDependencyError

__all__ = ["DASHES", "PALETTE", "chart_specifications", "library"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#3599D0", "#8B6BB1", "#7A7A7A")
"""Okabe and Ito's colours, told apart with any colour vision; those too light for white paper darkened."""

DASHES: tuple[tuple[float, ...], ...] = ((1, 0), (5, 3), (1.5, 2.5), (7, 2.5, 1.5, 2.5), (10, 3))
"""Of lines in turn: with the colours 40 different ones. Points of every other eight models are hollow."""

_SEQUENTIAL = "viridis"
_COUNTS = [0, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000]
_LOG_AXIS = {"tickCount": 4, "format": "~g"}
_SERIES = ("Top 1", "Top 2", "Top 3", "Median")
_OF_LINES = {"title": None, "orient": "top", "symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 2}


def library() -> Any:
    """The altair package; raises MissingDependencyError with the fix where it is not installed."""
    try:
        import altair
    except ImportError:
        raise MissingDependencyError(
            "--report makes its charts with altair and vl-convert-python, which are not installed. "
            "Install them: pip install 'outlier-features[report]'"
        ) from None
    return altair


def chart_specifications() -> dict[str, dict[str, Any]]:
    """A specification by the name of its place in the page; each has one dataset, ``rows``."""
    alt = library()
    charts = {
        "sweep": _sweep(alt),
        "phase": _phase(alt),
        "cells": _cells(alt),
        "feature-positions": _feature_positions(alt),
        "magnitudes": _magnitudes(alt),
        "kurtosis": _by_layer(alt, "Kurtosis of feature RMS"),
        "max-median": _by_layer(alt, "Max-median ratio"),
        "profile": _profile(alt),
        "growth": _growth(alt),
        "quantisation": _quantisation(alt),
        "emergence-parameters": _emergence(alt, "total_parameters", "Parameters"),
        "emergence-perplexity": _emergence(alt, "perplexity", "Perplexity"),
    }
    return {name: _finished(chart) for name, chart in charts.items()}


def _finished(chart: Any) -> dict[str, Any]:
    specification: dict[str, Any] = chart.properties(width="container").to_dict()
    specification.pop("$schema", None)
    specification.pop("config", None)
    specification.pop("datasets", None)
    specification["data"] = {"name": "rows", "values": []}
    return specification


def _base(alt: Any, height: int) -> Any:
    return alt.Chart(alt.NamedData("rows")).properties(height=height)


def _store_line(alt: Any) -> dict[str, Any]:
    """A store's colour and dashes: the page gives their scales what each store has in all charts."""
    return {"color": alt.Color("store:N", legend=None), "strokeDash": alt.StrokeDash("store:N", legend=None)}


def _store_point(alt: Any) -> dict[str, Any]:
    """A store's colour around its points, and in them unless they are hollow."""
    return {"fill": alt.Fill("store:N", legend=None), "stroke": alt.Stroke("store:N", legend=None)}


def _to_one(alt: Any) -> Any:
    """A scale's domain that reaches from 0 to 1 at least: where all counts are 0 it would have no extent."""
    return alt.DomainUnionWith(unionWith=[0, 1])


def _count_axis(alt: Any, title: str, **scale: Any) -> Any:
    return {
        "scale": alt.Scale(type="symlog", constant=1, nice=False, zero=True, **scale),
        "axis": alt.Axis(values=_COUNTS, format=",d", title=title),
    }


def _sweep(alt: Any) -> Any:
    base = _base(alt, 300)
    x = alt.X(
        "magnitude:Q",
        title="Magnitude",
        scale=alt.Scale(zero=False, nice=False),
        axis=alt.Axis(format="~g", labelOverlap="greedy", labelSeparation=6, labelFlush=False),
    )
    y = alt.Y("outliers:Q", **_count_axis(alt, "Outliers"))
    whole = alt.Y("outliers:Q", **_count_axis(alt, "Outliers", domain=_to_one(alt)))  # of one layer: two would be told
    tooltip = [
        alt.Tooltip("store:N", title="Model"),
        alt.Tooltip("magnitude:Q", title="Magnitude"),
        alt.Tooltip("outliers:Q", title="Outliers", format=",d"),
    ]
    line = base.mark_line(strokeWidth=2).encode(x=x, y=whole, **_store_line(alt))
    points = base.mark_point(size=22, strokeWidth=1.2).encode(x=x, y=y, **_store_point(alt), tooltip=tooltip)
    once = base.transform_filter("datum.chosen").transform_aggregate(groupby=["magnitude"])  # not a line a store
    rule = once.mark_rule(strokeDash=[3, 3], opacity=0.6).encode(x=x)
    chosen = (
        base.transform_filter("datum.chosen")
        .mark_point(size=120, opacity=1, strokeWidth=2)
        .encode(x=x, y=y, **_store_point(alt), tooltip=tooltip)
    )
    return alt.layer(rule, line, points, chosen)


def _phase(alt: Any) -> Any:
    base = _base(alt, 320)
    x = alt.X("magnitude:O", sort=None, title="Magnitude", axis=alt.Axis(labelOverlap=True, labelAngle=0))
    y = alt.Y("share:O", sort="descending", title="Least share of layers (%)", axis=alt.Axis(labelOverlap=True))
    cells = base.mark_rect().encode(
        x=x,
        y=y,
        color=alt.Color(
            "outliers:Q",
            scale=alt.Scale(type="symlog", constant=1, scheme=_SEQUENTIAL, domain=_to_one(alt)),
            legend=alt.Legend(
                title="Outliers", orient="top", format=",d", gradientLength=220, gradientThickness=8, tickCount=4
            ),
        ),
        tooltip=[
            alt.Tooltip("magnitude:O", title="Magnitude"),
            alt.Tooltip("share:O", title="Layers, %"),
            alt.Tooltip("outliers:Q", title="Outliers", format=",d"),
        ],
    )
    chosen = base.transform_filter("datum.chosen").mark_rect(fill=None, stroke="#D55E00", strokeWidth=2.5, opacity=1)
    return alt.layer(cells, chosen.encode(x=x, y=y))


def _cells(alt: Any) -> Any:
    return (
        _base(alt, 150)
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
            y=alt.Y("site:N", sort=None, title=None),
            color=alt.Color(
                "peak:Q",
                scale=alt.Scale(scheme=_SEQUENTIAL, zero=True),
                legend=alt.Legend(title="Peak |X|", orient="top", gradientLength=200, gradientThickness=8),
            ),
            tooltip=[alt.Tooltip("site:N"), alt.Tooltip("layer:O"), alt.Tooltip("peak:Q", format=".6g")],
        )
    )


def _feature_positions(alt: Any) -> Any:
    return (
        _base(alt, 150)
        .mark_bar(color=PALETTE[0])
        .encode(
            x=alt.X("bin:O", sort=None, title="Position", axis=alt.Axis(labelAngle=-40, labelOverlap=True)),
            y=alt.Y("share:Q", title="Positions hit", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1])),
            tooltip=[alt.Tooltip("bin:O", title="Positions"), alt.Tooltip("hits:Q"), alt.Tooltip("tokens:Q")],
        )
    )


def _magnitudes(alt: Any) -> Any:
    return (
        _base(alt, 260)
        .mark_line(point=alt.OverlayMarkDef(size=22), strokeWidth=2)
        .encode(
            x=alt.X("layer:Q", title="Layer", scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("value:Q", title="|X|", scale=alt.Scale(type="log", nice=False), axis=_LOG_AXIS),
            color=alt.Color(
                "series:N",
                sort=list(_SERIES),
                scale=alt.Scale(domain=list(_SERIES), range=[PALETTE[1], PALETTE[4], PALETTE[2], PALETTE[0]]),
                legend=alt.Legend(**_OF_LINES, columns=2),
            ),
            strokeDash=alt.StrokeDash(
                "series:N",
                sort=list(_SERIES),
                scale=alt.Scale(domain=list(_SERIES), range=list(map(list, DASHES))),
                legend=alt.Legend(**_OF_LINES, columns=2),
            ),
            tooltip=[alt.Tooltip("series:N"), alt.Tooltip("layer:Q"), alt.Tooltip("value:Q", format=".6g")],
        )
    )


def _by_layer(alt: Any, title: str) -> Any:
    return (
        _base(alt, 200)
        .mark_line(point=alt.OverlayMarkDef(size=22), strokeWidth=2)
        .encode(
            x=alt.X("layer:Q", title="Layer", scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(type="log", nice=False), axis=_LOG_AXIS),
            color=alt.Color(
                "tensor:N",
                sort=None,
                scale=alt.Scale(range=list(PALETTE)),
                legend=alt.Legend(**_OF_LINES, columns=1, labelLimit=300),
            ),
            strokeDash=alt.StrokeDash(
                "tensor:N",
                sort=None,
                scale=alt.Scale(range=list(map(list, DASHES))),
                legend=alt.Legend(**_OF_LINES, columns=1, labelLimit=300),
            ),
            tooltip=[alt.Tooltip("tensor:N"), alt.Tooltip("layer:Q"), alt.Tooltip("value:Q", format=".6g")],
        )
    )


def _profile(alt: Any) -> Any:
    return (
        _base(alt, 220)
        .mark_bar()
        .encode(
            x=alt.X("bin:O", sort=None, title="Position", axis=alt.Axis(labelAngle=-40, labelOverlap=True)),
            xOffset=alt.XOffset("site:N", sort=None),
            y=alt.Y("rate:Q", title="Hits per token"),
            color=alt.Color(
                "site:N",
                sort=None,
                scale=alt.Scale(range=list(PALETTE)),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=[
                alt.Tooltip("site:N"),
                alt.Tooltip("bin:O", title="Positions"),
                alt.Tooltip("hits:Q", format=",d"),
                alt.Tooltip("rate:Q", title="Hits per token", format=".4g"),
            ],
        )
    )


def _growth(alt: Any) -> Any:
    base = _base(alt, 220)
    x = alt.X("tokens:Q", title="Tokens", axis=alt.Axis(format="~s", tickCount=6))
    y = alt.Y("unique:Q", title="Unique features", scale=alt.Scale(zero=True))
    whole = alt.Y("unique:Q", title="Unique features", scale=alt.Scale(zero=True, domain=_to_one(alt)))
    line = base.mark_line(strokeWidth=2).encode(x=x, y=whole, **_store_line(alt))
    points = base.mark_point(size=22, strokeWidth=1.2, opacity=1).encode(
        x=x,
        y=y,
        **_store_point(alt),
        tooltip=[
            alt.Tooltip("store:N", title="Model"),
            alt.Tooltip("tokens:Q", format=",d"),
            alt.Tooltip("unique:Q", title="Unique features", format=".4g"),
        ],
    )
    return alt.layer(line, points)


def _quantisation(alt: Any) -> Any:
    base = _base(alt, 300)
    x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelOverlap=True, labelAngle=0))
    y = alt.Y("format:N", sort=None, title=None, axis=alt.Axis(labelLimit=140))
    cells = base.mark_rect().encode(
        x=x,
        y=y,
        color=alt.Color(
            "sqnr:Q",
            scale=alt.Scale(scheme=_SEQUENTIAL, zero=False),
            legend=alt.Legend(title="SQNR, dB", orient="top", gradientLength=200, gradientThickness=8),
        ),
        tooltip=[alt.Tooltip("format:N"), alt.Tooltip("layer:O"), alt.Tooltip("ratio:N", title="SQNR, dB")],
    )
    exact = (
        base.transform_filter("datum.word !== null")
        .mark_text(fontSize=10, color="#1a1a1a")
        .encode(x=x, y=y, text="word:N")
    )
    return alt.layer(cells, exact)


def _emergence(alt: Any, x: str, title: str) -> Any:
    return (
        _base(alt, 240)
        .mark_point(size=110, opacity=1, strokeWidth=2)
        .encode(
            x=alt.X(
                f"{x}:Q",
                title=title,
                scale=alt.Scale(type="log", nice=False, padding=20)
                if x == "total_parameters"
                else alt.Scale(zero=False, padding=20, reverse=True),
                axis=alt.Axis(format="~s", tickCount=6, labelExpr="replace(datum.label, 'G', 'B')"),
            ),
            y=alt.Y("outliers:Q", **_count_axis(alt, "Outliers", domain=_to_one(alt))),
            **_store_point(alt),
            shape=alt.Shape("family:N", legend=alt.Legend(title=None, orient="top", columns=1, labelLimit=300)),
            tooltip=[
                alt.Tooltip("store:N", title="Model"),
                alt.Tooltip("family:N", title="Family"),
                alt.Tooltip(f"{x}:Q", title=title, format=",.6~g"),
                alt.Tooltip("outliers:Q", title="Outliers", format=",d"),
            ],
        )
    )
