"""The page in a real browser: what it says, how it is worked, and that it asks nothing of anybody."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze import ask, emergence, open_run, overview
from analyze.overviews.results import Saturation
from analyze.report import html
from analyze.report.writing import write_report
from analyze.tables.columns import FEATURE_COLUMNS, RESULT_COLUMNS
from analyze.tables.printable import printable
from analyze.thresholds.answers import answer
from analyze.thresholds.results import Result
from tests.analyze.report.conftest import HOSTILE
from tests.browser import Browser, Page
from tests.stores import write_store

MAGNITUDES = "2:14:0.5"

ROWS = """[...document.querySelectorAll("#counts tbody tr")].map(
    (row) => [...row.cells].slice(1, 6).map((cell) => cell.textContent))"""
EMERGENCE = """[...document.querySelectorAll("#emergence-rows tbody tr")].map(
    (row) => [...row.cells].slice(2).map((cell) => cell.textContent))"""
PICKED = "Number(document.querySelector('#feature h3').textContent.split(' ')[1])"
FEATURE = """(() => {
    const words = document.getElementById("feature-facts").textContent;
    const cells = (id, from) => [...document.querySelectorAll(`#${id} tbody tr`)].map(
        (row) => [...row.cells].slice(from).map((cell) => cell.textContent));
    const median = /with a median of (\\S+) there/.exec(words);
    return [[...(/at ([0-9,]+) of ([0-9,]+) positions/.exec(words)).slice(1), median && median[1]],
        cells("feature-tokens", 1), cells("feature-experts", 0)];
})()"""
UNITS = """[...document.querySelectorAll("#units tbody tr")].map(
    (row) => [...row.cells].map((cell) => cell.textContent))"""


@pytest.fixture(scope="module")
def page(browser: Browser, compared_page: Path) -> Iterator[Page]:
    """The comparison, opened and ready."""
    opened = browser.page(compared_page)
    opened.until("document.body && document.body.dataset.ready")
    assert opened.complaints() == []
    yield opened
    opened.close()


def choose(page: Page, **places: int) -> None:
    """Move the sliders to places, and wait for what follows."""
    moves = "".join(
        f"slider = document.getElementById({name!r}); slider.value = {place}; slider.dispatchEvent(new Event('input'));"
        for name, place in places.items()
    )
    wanted = " ".join(map(str, places.values()))
    page.value(
        f"new Promise((done) => {{ let slider; {moves} const look = () => document.body.dataset.place === '{wanted}'"
        " ? done() : requestAnimationFrame(look); look(); })"
    )


def settings(definition: str, shares: int) -> list[tuple[str, str, list[str]]]:
    """Shares of layers and positions, and five magnitudes at each: the first as asked, the others drawn."""
    draw = random.Random(definition)
    drawn = [(f"{draw.choice([5, 8, 17, 25, 50, 75, 100])}%", f"{draw.randrange(1, 40)}%") for _ in range(shares - 1)]
    return [(*pair, [f"{n / 2:g}" for n in draw.sample(range(4, 29), 5)]) for pair in [("25%", "6%"), *drawn]]


def places(seen: Any, magnitude: str, layers: str, positions: str) -> dict[str, int]:
    return {
        "magnitude": seen.asked.magnitudes.index(magnitude),
        "layers": [step.text for step in seen.asked.layer_shares].index(layers),
        "positions": [step.text for step in seen.asked.position_shares].index(positions),
    }


def listed(result: Result) -> list[list[str]]:
    """The list that the command prints."""
    texts: dict[str, Any] = {column.heading: column.text for column in FEATURE_COLUMNS}
    units = list(result.features(None))
    names = ["Feature", "Sequence", "L%", "S%", "Peak", "Critical magnitude"]
    if units and units[0].sequence is None:
        names.remove("Sequence")
    return [[texts[name](unit) for name in names] for unit in units[:200]]


def agreeing(page: Page, stores: list[Path], seen: Any, shares: int, **knobs: Any) -> int:
    """Hold the page's table and list against what the command prints; how many different tables there were."""
    different = set()
    for place, (layers, positions, magnitudes) in enumerate(settings(str(knobs), shares)):
        question = ask(",".join(magnitudes), layers=layers, positions=positions, **knobs)
        results = [answer(store, question) for store in stores]
        for i, magnitude in enumerate(magnitudes):
            choose(page, **places(seen, magnitude, layers, positions))
            expected = [[column.text(found[i]) for column in RESULT_COLUMNS] for found in results]
            assert page.value(ROWS) == expected, (magnitude, layers, positions)
            assert page.value(UNITS) == listed(results[0][i]), (magnitude, layers, positions)
            different.add(str(expected))
        if len(stores) > 1 and place % 4 == 1:
            assert page.value(EMERGENCE) == emerging(stores, magnitude, layers, positions)
        if len(stores) > 1:
            assert page.value(FEATURE) == looked_at(stores[0], page.value(PICKED), Fraction(magnitude))
    assert page.complaints() == []
    return len(different)


def emerging(stores: list[Path], magnitude: str, layers: str, positions: str) -> list[list[str]]:
    """The largest feature of each store, as --emergence has it, in the order of the stores."""
    found = emergence(stores, magnitude, layers=layers, positions=positions).sortby("total_parameters")
    names = ("mean_layer_percent", "mean_position_percent", "largest_feature", "critical_magnitude", "median_magnitude")
    rows = zip(found.outliers.values.tolist(), *(found[name].values.tolist() for name in names), strict=True)

    def text(value: float, form: str) -> str:
        return "-" if value == -1 or value != value else format(value, form)

    return [
        [f"{count:,}", *(text(v, ".1f") + "%" * (v == v) for v in means), text(largest, "d"), text(critical, ".6g"),
         text(median, ".6g")]
        for count, *means, largest, critical, median in rows
    ]  # fmt: skip


def looked_at(store: Path, feature: int, magnitude: Fraction) -> list[Any]:
    """Where a feature reaches a magnitude, in the plainest way: positions, tokens and experts with hits and totals."""
    held = open_run(store)
    peaks = np.maximum(held.ln_attn_position_peak.values, held.ln_mlp_position_peak.values)[:, :, feature]
    hit = peaks >= float(magnitude)
    token = held.token_id.values
    tokens = [(np.count_nonzero(hit[token == t]), np.count_nonzero(token == t), t) for t in np.unique(token)]
    tokens = sorted((one for one in tokens if one[0]), key=lambda one: (-one[0], one[1], one[2]))[:12]
    hits = np.abs(held.ln_mlp.values[..., feature]) >= float(magnitude)
    given = held.expert_id.values
    experts = []
    for layer in range(given.shape[0]):
        for expert in range(4):
            there = (given[layer] == expert).any(axis=-1)
            experts.append((layer, expert, np.count_nonzero(hits[layer] & there), np.count_nonzero(there)))
    experts = sorted((one for one in experts if one[2]), key=lambda one: -one[2])[:12]
    median = f"{np.median(peaks[hit]):.6g}" if hit.any() else None
    return [
        [f"{np.count_nonzero(hit):,}", f"{hit.size:,}", median],
        [[f"{n:,}" for n in one[:2]] for one in tokens],
        [[f"{n:,}" for n in one] for one in experts],
    ]


def test_fifty_settings_agree_with_the_command(page: Page, compared_stores: list[Path]) -> None:
    seen = overview(compared_stores, MAGNITUDES, engine="peaks")
    assert agreeing(page, compared_stores, seen, 10) > 20


def test_hostile_names_are_text(page: Page) -> None:
    assert printable(HOSTILE) in page.value('document.querySelector("#counts tbody th").textContent')
    assert page.value('document.querySelectorAll("main script, main b").length') == 0
    assert printable(HOSTILE) in page.value("document.title")
    assert page.value("document.querySelector('main').textContent.includes('\u202e')") is False
    token = "[...document.querySelector('#feature-more .long-token').children].map((one) => one.textContent)"
    cut, shown = page.value(token)
    assert (len(cut), cut[:-1], cut[-1]) == (40, shown[:39], "\u2026")
    assert shown == HOSTILE.replace("\u202e", "<U+202E>").replace("\u2028", "<U+2028>").replace(" ", "\u2423")
    assert page.complaints() == []


def test_worked_by_keyboard(page: Page) -> None:
    choose(page, magnitude=4, layers=20, positions=5)
    before = page.value(ROWS)
    page.value('document.getElementById("magnitude").focus()')
    page.key("ArrowRight", 39, times=6)
    page.until("document.body.dataset.place.startsWith('10 ')")
    assert page.value(ROWS) != before
    assert page.value('document.getElementById("magnitude").getAttribute("aria-valuetext")') == "7"
    assert page.value('document.getElementById("magnitude-value").textContent') == "7"
    page.value('document.querySelector(".pick:not([aria-pressed=true])").focus()')
    picked = page.value("document.activeElement.textContent")
    page.key("Enter", 13)
    page.send("Input.dispatchKeyEvent", type="char", text="\r")
    page.until(f"document.querySelector('#feature h3')?.textContent === 'Feature {picked}'")
    assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_every_control_and_chart_has_a_name(page: Page) -> None:
    page.send("Accessibility.enable")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("slider", "combobox", "button", "link", "table", "region", "graphics-document", "image")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value"))
        for node in nodes
        if not node.get("ignored") and node.get("role", {}).get("value") in roles
    ]
    assert not [role for role, name in named if not name]
    assert {"slider", "combobox", "button", "table"} <= {role for role, _ in named}
    assert (
        sum(role.startswith("graphics") for role, _ in named) >= 8
        or page.value(
            'document.querySelectorAll("svg.marks[aria-label], .chart [role=graphics-document][aria-label]").length'
        )
        >= 8
    )
    page.send("Accessibility.disable")


def test_absent_sections_say_why(page: Page) -> None:
    page.value(
        "(() => { const s = document.getElementById('store'); s.value = 1; s.dispatchEvent(new Event('change')); })()"
    )
    page.until("document.querySelector('#curves .absent') && document.querySelector('#quantised .absent')")
    assert "holds peaks only" in page.value("document.querySelector('#curves').textContent")
    page.value(
        "(() => { const s = document.getElementById('store'); s.value = 0; s.dispatchEvent(new Event('change')); })()"
    )
    page.until("document.querySelector('[data-chart=magnitudes] svg')")
    assert page.complaints() == []


def test_printed_without_controls_and_as_wide_as_paper(browser: Browser, compared_page: Path) -> None:
    opened = browser.page(compared_page, 1400, 900, {"prefers-color-scheme": "dark"})
    opened.until("document.body && document.body.dataset.ready")
    drawn = "document.querySelector('[data-chart=sweep] svg').getBoundingClientRect().width"
    wide = opened.value(drawn)
    opened.send("Emulation.setEmulatedMedia", media="print")
    opened.value("window.dispatchEvent(new Event('beforeprint'))")
    style = "getComputedStyle(document.querySelector({!r})).{}".format
    assert {opened.value(style(s, "display")) for s in (".control input", ".control.last", ".screen")} == {"none"}
    picked = ".pick[aria-pressed=true]"  # on screen paper on ink, and backgrounds are not printed
    assert opened.value(style(picked, "color")) == opened.value(style("body", "color")) == "rgb(0, 0, 0)"
    assert opened.value("[...document.querySelectorAll('details:not(.numbers, .long-token)')].every((one) => one.open)")
    assert opened.value(drawn) < 800 < wide
    opened.send("Emulation.setEmulatedMedia", media="")
    opened.value("window.dispatchEvent(new Event('afterprint'))")
    opened.until(f"{drawn} === {wide}")
    assert opened.complaints() == []
    opened.close()


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_overflows(browser: Browser, compared_page: Path, width: int) -> None:
    opened = browser.page(compared_page, width, 900, {"prefers-color-scheme": "dark"})
    opened.until("document.body && document.body.dataset.ready")
    assert opened.value("document.documentElement.scrollWidth") <= width
    assert opened.value("getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 28)"
    if width < 640:  # a slider is as wide as its row
        assert opened.value("document.getElementById('layers').offsetWidth") > 300
    opened.close()


def test_growth_is_that_of_the_object(page: Page, compared_stores: list[Path]) -> None:
    seen = overview(compared_stores, "6", engine="peaks")
    choose(page, **places(overview(compared_stores[:1], MAGNITUDES, engine="peaks"), "6", "25%", "6%"))
    expected = [
        (tokens, pytest.approx(unique))
        for store in seen.stores
        if isinstance(store.saturation, Saturation)
        for tokens, unique in zip(store.saturation.tokens, store.saturation.unique_features[0], strict=True)
    ]
    page.value("document.querySelectorAll('.numbers').forEach((one) => { one.open = true; })")
    points = (
        "[...document.querySelectorAll('[data-chart=growth] .mark-symbol path')].map((path) => "
        "[.../^Tokens: ([0-9.]+); Unique features: ([0-9.]+)/.exec(path.ariaLabel)].slice(1).map(Number))"
    )
    time.sleep(0.5)  # charts follow when the sliders rest
    assert [tuple(point) for point in page.value(points)] == expected
    last = (
        "[...document.querySelectorAll('[data-numbers=growth] tbody tr:last-child td')].map((cell) => cell.textContent)"
    )
    assert page.value(last) == [f"{store.saturation.unique_features[0][-1]:.6g}" for store in seen.stores]  # type: ignore[union-attr]
    without = "[...document.querySelectorAll('.numbers')].filter((one) => !one.querySelector('td')).length"
    charts = page.value("document.querySelectorAll('.chart').length")
    assert (page.value(without), page.value("document.querySelectorAll('.numbers').length")) == (0, charts)
    page.value("document.querySelectorAll('.numbers').forEach((one) => { one.open = false; })")


def test_many_sequences_and_exact_formats(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "even.zarr"
    values = np.full((3, 4, 20, 8), 4, np.float32)  # powers of two, which small floats give back
    values[..., 3] = 8
    values[:, 0, :, 5] = 8
    values[:, :2, :, 6] = values[:, :, 0, 7] = 8  # half of the layers, a twentieth of the positions
    write_store(store, {"ln_attn": values})
    monkeypatch.setattr(html, "MOST_DRAWN", 3)
    half, twentieth = "0.50000000000000001", "0.05000000000000000001"  # a little more: beyond a double's digits
    seen = overview(store, "4:10:1", layers=half, positions=twentieth)
    write_report(seen, tmp_path / "report.html")
    opened = browser.page(tmp_path / "report.html")
    opened.until("document.body && document.body.dataset.ready")
    asked = [(magnitude, half, twentieth) for magnitude in ("6", "8", "9")]
    for magnitude, layers, positions in (*asked, ("6", half, "5%"), ("6", "50%", twentieth), ("6", "25%", "20%")):
        choose(opened, **places(seen, magnitude, layers, positions))
        (result,) = answer(store, ask(magnitude, layers=layers, positions=positions))
        expected = [column.text(result) for column in RESULT_COLUMNS]
        if (layers, positions) != (half, twentieth):
            expected[2] = expected[2].partition(" ")[0]
        assert opened.value(ROWS) == [expected]
    assert "No interval at other shares" in opened.value("document.querySelector('#table').textContent")
    words = "[...document.querySelectorAll('[data-chart=quantisation] .mark-text text')].map((one) => one.textContent)"
    assert "exact" in opened.value(words)
    assert opened.value("document.getElementById('emergence')") is None
    assert opened.complaints() == []
    opened.close()


@pytest.mark.slow
def test_zeros_long_names_and_nan_open_without_complaint(browser: Browser, tmp_path: Path) -> None:
    random_ = np.random.default_rng(3)
    shape = (3, 3, 20, 8)
    values = {site: (random_.standard_t(3, shape) * 3).astype(np.float32) for site in ("ln_attn", "ln_mlp")}
    write_store(tmp_path / "zero.zarr", {site: np.zeros(shape, np.float32) for site in values})
    write_store(tmp_path / "long.zarr", values, floor="6", model={"name": "name" * 50})
    values["ln_attn"][1, 2, 3, 4], values["ln_mlp"][2, 1, 0, 5] = np.nan, np.inf
    write_store(tmp_path / "nan.zarr", values, model={"name": "name" * 50})
    every = [tmp_path / f"{name}.zarr" for name in ("zero", "long", "nan")]
    for stores in (every, every[:1], every[1:2]):
        write_report(overview(stores, "2:10:2"), tmp_path / "report.html")
        opened = browser.page(tmp_path / "report.html", 360)
        opened.until("document.body && document.body.dataset.ready")
        opened.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert opened.value("document.documentElement.scrollWidth") <= 360
        assert opened.complaints() == []
        opened.close()


@pytest.mark.slow
def test_more_models_than_colours_are_told_apart(browser: Browser, tmp_path: Path) -> None:
    stores = [tmp_path / f"{place}.zarr" for place in range(10)]
    for place, store in enumerate(stores):
        values = np.full((2, 2, 4, 3), 2 + place, np.float32)
        write_store(store, {"ln_attn": values}, model={"name": f"m{place}", "total_parameters": 10**9 * (place + 1)})
    write_report(overview(stores, "2:12:1"), tmp_path / "report.html")
    opened = browser.page(tmp_path / "report.html")
    opened.until("document.body && document.body.dataset.ready")
    marks = opened.value("[...document.querySelectorAll('#magnitudes .swatch')].map((one) => one.outerHTML)")
    assert len(set(marks)) == 10
    drawn = (
        "[...document.querySelectorAll('[data-chart={}] {} path')]"
        ".map((one) => ['stroke', {!r}].map((name) => one.getAttribute(name)))"
    )
    lines = opened.value(drawn.format("sweep", ".mark-line", "stroke-dasharray"))
    assert len({str(line) for line in lines}) == 10
    for mark, (colour, dashes) in zip(marks, lines, strict=True):
        assert f'stroke="{colour}"' in mark
        assert f'stroke-dasharray="{dashes.replace(",", " ")}"' in mark
    points = opened.value(drawn.format("emergence-parameters", ".mark-symbol", "fill"))
    assert sum(fill == "transparent" for _, fill in points) == 2
    assert opened.complaints() == []
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {"definition": "llm-int8"},
        {"definition": "llm-int8-block"},
        {"definition": "majority", "positions_range": "1:"},
        {"definition": "llm-int8", "layers_range": "1:"},
        {"definition": "majority", "position_coverage": "mean"},
        {"minimum_hits": 2, "positions_range": "1:"},
    ],
    ids=str,
)
def test_other_definitions_agree_too(
    browser: Browser, compared_stores: list[Path], tmp_path: Path, knobs: dict[str, Any]
) -> None:
    stores = compared_stores[:1]
    seen = overview(stores, MAGNITUDES, engine="peaks" if set(knobs) == {"definition"} else "auto", **knobs)
    write_report(seen, tmp_path / "report.html")
    opened = browser.page(tmp_path / "report.html")
    opened.until("document.body && document.body.dataset.ready")
    agreeing(opened, stores, seen, 2, **knobs)
    opened.close()
