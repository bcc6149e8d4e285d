"""A page of many more pairs than it lists: small, and still the command's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyze import ask, overview
from analyze.overviews.packing import unpacked
from analyze.report.writing import write_report
from analyze.tables.columns import FEATURE_COLUMNS
from analyze.thresholds.answers import answer
from bench.peaks_store import write_peaks
from schemas.layout import Dimensions
from tests.analyze.report.test_page import UNITS, agreeing, choose, places
from tests.browser import Browser

BYTES_EACH = 1.4
"""Of the page, for a pair at a threshold; over 2 where all positions are held. At full size, by quarters, it is 0.7."""


def test_many_pairs_take_few_bytes_and_are_listed_exactly(browser: Browser, tmp_path: Path) -> None:
    store = tmp_path / "many.zarr"
    write_peaks(store, "many", Dimensions(16, 6, 256, 512), share=0.5, seed=0)
    seen = overview(store, "2:14:0.5")
    lists = unpacked(seen.stores[0].coverage.pairs)
    pairs, held, known = len(lists[2]), sum(lists[2]), len(lists[5])
    assert (pairs, seen.stores[0].coverage.pairs_exact) == (3072, "listed")
    assert known < pairs / 3
    assert len(seen.stores[0].coverage.pairs) < BYTES_EACH * held
    write_report(seen, tmp_path / "report.html")
    page = browser.page(tmp_path / "report.html")
    page.until("document.body && document.body.dataset.ready")
    assert agreeing(page, [store], seen, 2) > 5
    texts: dict[str, Any] = {column.heading: column.text for column in FEATURE_COLUMNS}
    names = ["Feature", "Sequence", "L%", "S%", "Peak", "Critical magnitude"]
    for magnitude, layers, positions in (("2", "25%", "6%"), ("2", "5%", "1%"), ("4", "80%", "30%")):
        choose(page, **places(seen, magnitude, layers, positions))
        (result,) = answer(store, ask(magnitude, layers=layers, positions=positions))
        units = list(result.features(None))
        assert len(units) > 200
        if (layers, positions) != ("25%", "6%"):
            units.sort(key=lambda unit: (-unit.peak, unit.sequence, unit.feature))
            names = names[:5]
        expected = [[texts[name](unit) for name in names] for unit in units[:200]]
        assert [row[: len(names)] for row in page.value(UNITS)] == expected
    page.close()
