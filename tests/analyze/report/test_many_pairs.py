"""A page of many more pairs than it lists: small, and still the command's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyze import ask, overview
from analyze.overviews.packing import unpacked
from analyze.report.writing import write_report
from analyze.thresholds.answers import answer
from bench.peaks_store import write_peaks
from schemas.layout import Dimensions
from tests.analyze.report.test_page import UNITS, agreeing, choose, listed, places
from tests.browser import Browser

BYTES_EACH = 1.4
"""Of the page, for a pair at a threshold; over 2 where all positions are held. At full size, by quarters, it is 0.7."""
LADDER_BYTES = 90
"""For the critical magnitudes at all shares of a pair that can be listed. At full size it is 40."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 512 features, of which half count at 6 in six sequences."""
    store = tmp_path_factory.mktemp("many") / "many.zarr"
    write_peaks(store, "many", Dimensions(16, 6, 256, 512), share=0.5, seed=0)
    return store


@pytest.mark.slow
def test_many_pairs_take_few_bytes_and_are_listed_exactly(browser: Browser, many: Path, tmp_path: Path) -> None:
    store, seen = many, overview(many, "2:14:0.5")
    lists = unpacked(seen.stores[0].coverage.pairs)
    pairs, held, known = len(lists[2]), sum(lists[2]), len(lists[5])
    assert (pairs, seen.stores[0].coverage.pairs_exact) == (3072, "listed")
    assert known < pairs / 3
    sizes = [len(word) for word in seen.stores[0].coverage.pairs.split(" ")]
    assert sum(sizes[:9]) < BYTES_EACH * held
    assert sum(sizes[9:]) < LADDER_BYTES * known
    write_report(seen, tmp_path / "report.html")
    page = browser.page(tmp_path / "report.html")
    page.until("document.body && document.body.dataset.ready")
    assert agreeing(page, [store], seen, 2) > 5
    for magnitude, layers, positions in (("2", "25%", "6%"), ("2", "5%", "1%"), ("4", "80%", "30%")):
        choose(page, **places(seen, magnitude, layers, positions))
        (result,) = answer(store, ask(magnitude, layers=layers, positions=positions))
        assert result.outliers > 200
        assert page.value(UNITS) == listed(result)
    page.close()


@pytest.mark.slow
def test_fifty_settings_of_a_majority_agree_with_the_command(browser: Browser, many: Path, tmp_path: Path) -> None:
    seen = overview(many, "2:14:0.5", definition="majority")
    write_report(seen, tmp_path / "report.html")
    page = browser.page(tmp_path / "report.html")
    page.until("document.body && document.body.dataset.ready")
    assert agreeing(page, [many], seen, 10, definition="majority") > 20
    for magnitude, layers, positions in (("2", "25%", "6%"), ("2", "5%", "1%"), ("3", "40%", "20%")):
        choose(page, **places(seen, magnitude, layers, positions))
        (result,) = answer(many, ask(magnitude, layers=layers, positions=positions, definition="majority"))
        assert result.outliers > 200
        assert page.value(UNITS) == listed(result)
    page.close()
