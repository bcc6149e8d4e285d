"""The picture that ``make demo`` takes of its report, or says that it skips."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from docs import report_picture
from tests.browser import Browser


def test_the_picture_is_of_the_page(
    browser: Browser, compared_page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "report.png"
    monkeypatch.setattr(sys, "argv", ["report_picture", str(compared_page), str(picture)])
    assert report_picture.main() == 0
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (report_picture.WIDTH, report_picture.HEIGHT)


def test_where_there_is_no_browser_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report_picture", "report.html", str(tmp_path / "report.png")])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert report_picture.main() == 0
    assert "skipped, there is no Chromium" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
