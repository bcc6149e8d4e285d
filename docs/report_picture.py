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

WIDTH, HEIGHT = 1100, 1720
"""Of the picture, in pixels: down to the map of magnitude and layers."""

_MAGNITUDE = "5"
"""The one that the README's demonstration looks at."""


def take_picture(report: Path, picture: Path, program: str) -> None:
    """Write a picture of the report's top, the slider at the demonstration's magnitude if it has that."""
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, Path(profile))
        try:
            page = browser.page(report.resolve(), WIDTH, HEIGHT)
            page.send("Emulation.setScrollbarsHidden", hidden=True)
            page.until("document.body && document.body.dataset.ready", 60)
            asked = 'JSON.parse(document.getElementById("data").textContent).overview.asked.magnitudes'
            place = page.value(f"{asked}.indexOf({_MAGNITUDE!r})")
            if place >= 0:
                page.value(
                    f"(() => {{ const slider = document.getElementById('magnitude'); slider.value = {place};"
                    " slider.dispatchEvent(new Event('input')); })()"
                )
                page.until(f"document.body.dataset.place.startsWith('{place} ')")
                page.until(f"document.querySelector('[data-chart=sweep]').outerHTML.includes('at {_MAGNITUDE}:')")
                page.value("new Promise((done) => setTimeout(done, 300))")  # the charts behind that one
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
