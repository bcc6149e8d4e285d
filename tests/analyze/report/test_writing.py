"""The report as a file: written whole, replaced whole, refused with the fix."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from analyze import overview
from analyze.overviews.document import as_json
from analyze.overviews.packing import unpacked_text
from analyze.report.charts import chart_specifications
from analyze.tables.printable import printable
from tests.analyze.conftest import Command
from tests.analyze.report.conftest import HOSTILE


def held(page: str) -> dict[str, Any]:
    """The object that a page holds, its features unpacked."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    found: dict[str, Any] = json.loads(text[1])["overview"]
    for store in found["stores"]:
        store["features"] = json.loads(unpacked_text(store["features"]))
    return found


def test_the_command_writes_page_and_table(noisy_store: Path, tmp_path: Path, analyze: Command) -> None:
    file = tmp_path / "report.html"
    file.write_text("somebody's")
    asked = ("--store", noisy_store, "--magnitude", "6,8", "--engine", "peaks", "--report", file)
    status, _, error = analyze(*asked)
    assert (status, file.read_text()) == (2, "somebody's")
    assert "was not written by --report, and is not replaced: move it away, or name another file" in error
    file.write_text("")  # as mktemp leaves one
    status, out, error = analyze(*asked)
    assert (status, "Magnitude" in out) == (0, True)
    assert f"{file}: 1." in error
    page = file.read_text(encoding="utf-8")
    status, out, _ = analyze(*asked, "--format", "json", "-q")
    assert status == 0
    printed = json.loads(out)
    assert printed == as_json(overview(noisy_store, "6,8", engine="peaks"))
    for computed_by_the_page in ("sweep", "saturation"):
        del printed["stores"][0][computed_by_the_page]
    assert printed == held(page)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--report", "."), "is a directory: name a file in it"),
        (("--report", "absent/report.html"), "mkdir -p absent"),
        (("--report", "STORE/r.html"), "is in the store"),
        (("--plots", "STORE/figures"), "is in the store"),
        (("--report", "r.html", "--details"), "--details"),
        (("--report", "r.html", "--quantisation"), "--report"),
        (("--report", "r.html", "--null"), "--report"),
        (("--report", "r.html", "--by", "layer"), "--report"),
        (("--report", "r.html", "--magnitude", "1:9:0.01"), "limit is 256"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused(
    noisy_store: Path, tmp_path: Path, analyze: Command, monkeypatch: pytest.MonkeyPatch, asked: object, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.replace("STORE", str(noisy_store)) for word in asked]  # type: ignore[attr-defined]
    status, out, error = analyze("--store", noisy_store, *words)
    assert (status, out) == (2, "")
    assert told in error
    assert not list(tmp_path.iterdir())


def test_hostile_names_stay_data(compared_page: Path) -> None:
    page = compared_page.read_text(encoding="utf-8")
    assert page.count("</script>") == page.count("<script") == 3
    assert HOSTILE not in page
    labels = [store["facts"]["label"] for store in held(page)["stores"]]
    assert labels[0] == printable(HOSTILE) != HOSTILE
    assert "default-src 'none'" in html.unescape(page)
    assert "unsafe-eval" not in page


def test_charts_are_empty_specifications() -> None:
    for name, specification in chart_specifications().items():
        assert specification["data"] == {"name": "rows", "values": []}, name
        assert specification["width"] == "container"
