"""Drive a headless Chromium over its DevTools pipe: no driver, no socket, no network."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
TIMEOUT = 30.0
KEYS = {"Enter": ("\r", 13), "Tab": ("", 9), " ": (" ", 32), "Escape": ("", 27), "Home": ("", 36)}
KEYS["End"] = ("", 35)
KEYS |= {f"Arrow{word}": ("", 37 + i) for i, word in enumerate(("Left", "Up", "Right", "Down"))}


class Browser:
    """One Chromium; `open` gives a page of its own."""

    def __init__(self, folder: Path):
        (ours, its_out), (its_in, to_it) = os.pipe(), os.pipe()
        flags = (
            "--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe "
            "--no-first-run --disable-background-networking --disable-dev-shm-usage"
        )
        # Chromium reads orders from 3 and writes answers to 4.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" {flags} "$1" 3<&{its_in} 4>&{its_out}', CHROMIUM,
             f"--user-data-dir={folder / 'profile'}"],
            pass_fds=(its_in, its_out), env={**os.environ, "HOME": str(folder)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(its_in)
        os.close(its_out)
        self._in, self._out = ours, to_it
        self._buffer, self._numbers = b"", itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def open(self, url: str, **media: str) -> "Page":
        """A page at `url`, loaded; `media` are features such as ``prefers_color_scheme="dark"``."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, target, session, url, media)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send an order and wait for its answer; events on the way are kept."""
        number = next(self._numbers)
        order = {"id": number, "method": method, "params": params}
        if session:
            order["sessionId"] = session
        os.write(self._out, json.dumps(order).encode() + b"\0")
        while True:
            message = self.read()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def read(self) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError(f"Chromium did not answer (status {self.process.poll()})")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        os.close(self._out)  # Chromium ends when nobody can give it orders
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._in)


class Page:
    """One page: evaluate, press keys, take pictures, and read what it complained of."""

    def __init__(
        self, browser: Browser, target: str, session: str, url: str, media: dict[str, str]
    ):
        self.browser, self.target, self.session = browser, target, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.size(1366, 900)
        self.call("Page.navigate", url=url)
        while not self._seen("Page.loadEventFired"):
            browser.events.append(browser.read())

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            text, code = KEYS[key]
            given = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            self.call(
                "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text,
                **given,
            )  # fmt: skip
            self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def hover(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def screenshot(self, whole: bool = False) -> bytes:
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def pdf(self) -> bytes:
        found = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(found["data"])

    def complaints(self) -> list[str]:
        """Exceptions, console errors and warnings, and refused or failed requests so far."""
        self.js("new Promise((done) => setTimeout(done, 50))")
        found = []
        for event in self._mine():
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                found += [str(argument.get("value")) for argument in params["args"]]
            elif event["method"] == "Log.entryAdded":
                found.append(params["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Every address that was asked for, but for data URIs."""
        sent = [e for e in self._mine() if e["method"] == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in sent]
        return [url for url in urls if not url.startswith("data:")]

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)

    def _mine(self) -> list[dict[str, Any]]:
        return [e for e in self.browser.events if e.get("sessionId") == self.session]

    def _seen(self, method: str) -> bool:
        return any(event["method"] == method for event in self._mine())


def texts(page: Page, selector: str) -> list[str]:
    """What the elements say."""
    return page.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)")
