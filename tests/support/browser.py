# SPDX-License-Identifier: Apache-2.0
"""A real Chromium without a screen, in a network namespace, driven by WebDriver over HTTP."""

import base64
import http.client
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.hub_process import until
from tests.support.netns import inside

_STARTED: Final = re.compile(rb"started successfully on port (\d+)")
_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


class Browser:
    """One window.

    Args:
        port: of the driver, on loopback of the namespace.
        namespace: where driver and browser run.
        profile: an empty folder.
    """

    def __init__(self, port: int, namespace: str, profile: Path) -> None:
        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), timeout=60)

        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._http.sock = inside(namespace, connect)
        options = {"args": [*_OPTIONS, f"--user-data-dir={profile}"], "binary": "/usr/bin/chromium"}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def close(self) -> None:
        """End the browser."""
        self._ask("DELETE", self._session)
        self._http.close()

    def go(self, url: str) -> None:
        """Load a page, and wait until it is there."""
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what JavaScript returns that runs in the page."""
        body = {"script": script, "args": list(arguments)}
        return self._ask("POST", f"{self._session}/execute/sync", body)

    def text(self, selector: str) -> str:
        """Return the text of an element as a person sees it."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def has(self, selector: str, words: str, seconds: float = 15.0) -> None:
        """Return once an element shows `words`."""
        until(f"{selector} shows {words!r}", lambda: words in self.text(selector), seconds)

    def complaints(self) -> list[str]:
        """Return what the console has said since the last time."""
        found = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return [line["message"] for line in found if not line["message"].startswith("chrome:")]

    def looks(self, scheme: str, width: int, height: int = 900) -> None:
        """Take a colour scheme, `light` or `dark`, and a size in CSS pixels; narrow is a phone."""
        self._devtools(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 700,
        )

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page, PNG."""
        shown = self._devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shown["data"]))

    def _devtools(self, command: str, **parameters: Any) -> Any:
        body = {"cmd": command, "params": parameters}
        return self._ask("POST", f"{self._session}/goog/cdp/execute", body)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        text = None if body is None else json.dumps(body)
        self._http.request(method, path, text, {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        fields = json.loads(answer.read())["value"]
        assert answer.status == http.client.OK, fields
        return fields


@contextmanager
def browser_in(namespace: str, folder: Path) -> Iterator[Browser]:
    """Run driver and browser in a namespace, and end both.

    Args:
        namespace: name.
        folder: for the profile and the driver's log.
    """
    profile, log = folder / "profile", folder / "chromedriver.log"
    profile.mkdir()
    argv = ["ip", "netns", "exec", namespace, "/usr/bin/chromedriver", "--port=0"]
    with log.open("wb") as out:
        driver = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        found = until("chromedriver listens", lambda: _STARTED.findall(log.read_bytes()))
        browser = Browser(int(found[0]), namespace, profile)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(20)
