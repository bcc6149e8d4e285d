"""``python -m docs.report_picture REPORT.html PICTURE.png``: the top of a report as the README shows it.

Taken by a headless Chromium; where there is none, or it does not work, that is said and nothing is written. The exit
status is 0 either way.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from tests.browser import Browser, chromium

WIDTH, HEIGHT = 1100, 1745
"""Of the picture, in pixels: down to the map of magnitude and layers."""


def take_picture(report: Path, picture: Path, program: str) -> None:
    """Write a picture of the report's top, as it opens."""
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, Path(profile))
        try:
            page = browser.page(report.resolve(), WIDTH, HEIGHT)
            page.send("Emulation.setScrollbarsHidden", hidden=True)
            page.until("document.body && document.body.dataset.ready", 60)
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
            picture.write_bytes(base64.b64decode(page.send("Page.captureScreenshot", clip=clip)["data"]))
        finally:
            browser.close()


def main() -> int:
    """The command."""
    report, picture = map(Path, sys.argv[1:])
    program = chromium()
    if program is None:
        print(f"{picture}: skipped, there is no Chromium here to take it with", file=sys.stderr)
        return 0
    try:
        take_picture(report, picture, program)
    except (AssertionError, EOFError, OSError) as error:
        print(f"{picture}: skipped, {program} could not take it: {error or type(error).__name__}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
