"""A headless Chromium, spoken to over its debugging pipe: no driver and no package beside the browser itself."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Page", "chromium"]

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)


def chromium() -> str | None:
    """The browser's program, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One browser; ``page`` opens a file in it. Close it when done."""

    def __init__(self, program: str, profile: Path) -> None:
        """Start ``program`` with a profile folder of its own."""
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        shell = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "-", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._number = b"", 0
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the browser."""
        try:
            self.send("Browser.close")
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired, EOFError):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to one command; raises AssertionError for its errors."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, f"{method}: {found['error']}"
                answer: dict[str, Any] = found["result"]
                return answer
            self._events.append(found)

    def events(self) -> list[dict[str, Any]]:
        """What happened since the last call; asks the browser something first, so that it has said all."""
        self.send("Browser.getVersion")
        found, self._events = self._events, []
        return found

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            if not part:
                raise EOFError("the browser has gone")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def page(
        self, file: Path, width: int = 1400, height: int = 1000, features: Mapping[str, str] | None = None
    ) -> Page:
        """The file opened in a tab of its own, that wide; ``features``: of media (prefers-color-scheme)."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target, file)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        page.resize(width, height)
        if features:
            page.send("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in features.items()])
        page.send("Page.navigate", url=file.as_uri())
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str, file: Path) -> None:
        self.browser, self.session, self.target, self.file = browser, session, target, file

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the tab answers."""
        return self.browser.send(method, self.session, **parameters)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression, or the promise that it is, comes to."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 30) -> None:
        """Wait until an expression is true; raises AssertionError where it is not in that time."""
        end = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, f"{expression} never came true; {self.complaints()}"
            time.sleep(0.05)

    def key(self, name: str, code: int, times: int = 1) -> None:
        """Press a key."""
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def resize(self, width: int, height: int) -> None:
        """Make the tab as wide and high as said."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, file: Path) -> None:
        """A picture of the whole page."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        file.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What the console was told, exceptions, and requests for anything but the file itself, since the last call."""
        events = [event for event in self.browser.events() if event.get("sessionId") == self.session]
        return [text for event in events if (text := _complaint(event, self.file)) is not None]

    def close(self) -> None:
        """Close the tab."""
        self.browser.send("Target.closeTarget", targetId=self.target)


def _complaint(event: dict[str, Any], file: Path) -> str | None:
    told: dict[str, Callable[[dict[str, Any]], str]] = {
        "Runtime.exceptionThrown": lambda p: json.dumps(p["exceptionDetails"]),
        "Runtime.consoleAPICalled": lambda p: json.dumps(p["args"]),
        "Log.entryAdded": lambda p: str(p["entry"]["text"]),
        "Network.requestWillBeSent": lambda p: str(p["request"]["url"])[:200],
    }
    method, parameters = event["method"], event["params"]
    if method not in told:
        return None
    if method == "Network.requestWillBeSent" and (
        parameters["request"]["url"] == file.as_uri() or parameters["request"]["url"].startswith(("data:", "blob:"))
    ):
        return None
    return f"{method}: {told[method](parameters)}"
