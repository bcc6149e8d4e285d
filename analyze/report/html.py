"""The page put together: its parts in one file, which allows itself no network and nothing but its own scripts."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.resources
import json
from typing import Any

from analyze.overviews.document import as_json
from analyze.overviews.packing import packed, packed_text
from analyze.overviews.results import Absent, Overview, StoreView
from analyze.report.charts import DASHES, PALETTE, chart_specifications, library
from analyze.thresholds.bootstrap import RESAMPLES, SEED, resamples

__all__ = ["report_html"]

_SCRIPTS = ("numbers.js", "columns.js", "lattice.js", "charts.js", "sections.js", "feature.js", "views.js", "page.js")

MOST_DRAWN = 256
"""Sequences of a store up to which the bootstrap's draws are in the page: of 2,048 they take 6.5 MB."""


def report_html(overview: Overview) -> str:
    """The report as one HTML file; raises MissingDependencyError where the chart library is not installed."""
    scripts = [_alone(_chart_library()), _alone('"use strict";\n' + "\n".join(map(_part, _SCRIPTS)))]
    stores = overview.stores
    sizes = [len(store.facts.sequences) for store in stores]
    page = {
        "overview": _shown(overview),
        "charts": chart_specifications(),
        "palette": PALETTE,
        "dashes": DASHES,
        "draws": {str(n): packed([resamples(n)]) for n in sorted(set(sizes)) if n <= MOST_DRAWN},
        "most_drawn": MOST_DRAWN,
        "intervals": [_intervals(store) if n > MOST_DRAWN else None for n, store in zip(sizes, stores, strict=True)],
        "tokens": [_tokens(store) for store in stores],
        "bootstrap": f"bootstrap percentile, 95%, {RESAMPLES:,} resamples of sequences, seed {SEED:,}",
    }
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    names = ", ".join(store.facts.label for store in overview.stores)
    filled = {
        "policy": html.escape(policy),
        "title": html.escape(f"Outlier features: {names}"),
        "style": _part("style.css"),
        "data": _in_script(page),
        "library": scripts[0],
        "script": scripts[1],
    }
    pieces = _part("page.html").split("%%")
    return "".join(piece if i % 2 == 0 else filled[piece] for i, piece in enumerate(pieces))


def _shown(overview: Overview) -> dict[str, Any]:
    """The overview without what the page computes from its counts; features are packed, a fifth of their size."""
    found = as_json(overview)
    for store in found["stores"]:
        del store["sweep"], store["saturation"]
        store["features"] = packed_text(json.dumps(store["features"], allow_nan=False, separators=(",", ":")))
    return found


def _intervals(store: StoreView) -> list[tuple[float, float] | None]:
    """The interval at each magnitude, at the shares asked."""
    return [point.interval for point in store.sweep]


def _tokens(store: StoreView) -> list[float]:
    """Tokens of n of the sequences, in the mean over choices of n."""
    if not isinstance(store.saturation, Absent):
        return list(store.saturation.tokens)
    sizes = store.facts.positions_by_sequence
    return [(n + 1) * sum(sizes) / len(sizes) for n in range(len(sizes))]


def _part(name: str) -> str:
    return importlib.resources.files("analyze.report").joinpath("page", name).read_text(encoding="utf-8")


def _alone(script: str) -> str:
    """A script whose names are its own."""
    return f"(function () {{\n{script}\n}})();"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _in_script(page: dict[str, Any]) -> str:
    """JSON that ends no script element and starts no comment in one."""
    text = json.dumps(page, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@functools.cache
def _chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script that no element of a page is ended by."""
    library()
    try:
        import vl_convert
    except ImportError:
        from schemas.errors import MissingDependencyError

        raise MissingDependencyError(
            "--report takes its chart library from vl-convert-python, which is not installed. "
            "Install it: pip install 'outlier-features[report]'"
        ) from None
    script: str = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # its stub forgets the default
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
