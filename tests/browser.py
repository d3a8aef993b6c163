"""Real browsers for the tests of pages, without a window or a network: Chromium over a pipe, Firefox over a local socket."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
ANSWER_S_MAX = 60.0


def find_chromium() -> str | None:
    """The browser of this machine, if it has one."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Page:
    """One page of the browser. Every method waits for its answer, at most ANSWER_S_MAX."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + ANSWER_S_MAX
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(until - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            read = os.read(self._from, 1 << 20)
            assert read, "the browser has gone"
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        return told

    def open(self, file: Path, fragment: str = "", *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a file, and wait until it has drawn itself."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", media="", features=scheme)
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=f"{file.absolute().as_uri()}{fragment}")
        self.wait(
            "document.readyState === 'complete' && (document.documentElement.dataset.ready || !document.scripts.length)"
        )

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        until = time.monotonic() + ANSWER_S_MAX
        while not self.run(condition):
            assert time.monotonic() < until, f"never true: {condition}; {self.problems()}"

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, after the next frame."""
        frame = f"new Promise((done, fail) => requestAnimationFrame(() => {{ try {{ done({script}) }} catch (e) {{ fail(e) }} }}))"
        told = self.ask("Runtime.evaluate", expression=frame, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press keys, as a person would; names as in KeyboardEvent.key."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, selector: str) -> None:
        """Press the mouse on an element's middle."""
        where = f"(e => [e.x + e.width / 2, e.y + e.height / 2])(document.querySelector({selector!r}).getBoundingClientRect())"
        x, y = self.run(where)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """What is visible, or the whole page, as a PNG."""
        told = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(told["data"]))

    def printed(self, file: Path) -> None:
        """The page as its own print dialogue would make a PDF."""
        file.write_bytes(base64.b64decode(self.ask("Page.printToPDF", preferCSSPageSize=True)["data"]))

    def problems(self) -> list[str]:
        """What the browser complained of: exceptions, refused scripts or styles, failed loads."""
        self.run("1")
        told = [e for e in self.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
        return [json.dumps(event["params"])[:500] for event in told]

    def requests(self) -> list[str]:
        """Every address that the page has asked for, its own apart."""
        self.run("1")
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("file:", "about:"))]


@contextmanager
def chromium() -> Iterator[Page]:
    """A page of a browser of its own, with an empty profile; both are gone afterwards."""
    binary = find_chromium()
    assert binary is not None
    read_there, write_here = os.pipe()
    read_here, write_there = os.pipe()
    with tempfile.TemporaryDirectory(prefix="cgrace-browser-", ignore_cleanup_errors=True) as profile:
        shell = f'exec "$@" 3<&{read_there} 4>&{write_there}'
        argv = ["bash", "-c", shell, "browser", binary, *FLAGS, f"--user-data-dir={profile}"]
        environment = {**os.environ, "HOME": profile, "XDG_CONFIG_HOME": profile, "XDG_CACHE_HOME": profile}
        process = subprocess.Popen(
            argv,
            pass_fds=(read_there, write_there),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        os.close(read_there)
        os.close(write_there)
        try:
            page = Page(write_here, read_here)
            yield page
            page._session = None
            page.ask("Browser.close")
        finally:
            os.close(write_here)
            os.close(read_here)
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The browser with all its children, which share its session."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait(10)


# ---- Firefox, over its Marionette protocol: "<length>:<JSON>" on a socket of this machine


def find_firefox() -> str | None:
    """The browser of this machine, if it has one."""
    return next((path for name in ("firefox-esr", "firefox") if (path := shutil.which(name))), None)


FIREFOX_PREFERENCES = {
    "marionette.port": 0,  # any free one: it writes which
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
}


class Fox:
    """A Firefox without a window."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self._number = 0
        self._read()  # its greeting
        self.ask("WebDriver:NewSession", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})

    def ask(self, command: str, **parameters: Any) -> Any:
        """One command of the WebDriver kind, and its value."""
        self._number += 1
        text = json.dumps([0, self._number, command, parameters])
        self._connection.sendall(f"{len(text)}:{text}".encode())
        _, number, error, result = self._read()
        assert number == self._number
        assert error is None, f"{command}: {error}"
        return result.get("value", result) if isinstance(result, dict) else result

    def _read(self) -> Any:
        while b":" not in self._rest:
            self._rest += self._received()
        length, _, self._rest = self._rest.partition(b":")
        while len(self._rest) < int(length):
            self._rest += self._received()
        told, self._rest = self._rest[: int(length)], self._rest[int(length) :]
        return json.loads(told)

    def _received(self) -> bytes:
        data = self._connection.recv(1 << 20)
        assert data, "the browser has gone"
        return data

    def open(self, file: Path, fragment: str = "") -> None:
        """Show a file, and wait until it has drawn itself."""
        url = file.absolute().as_uri() + fragment
        self.ask("WebDriver:Navigate", url=url)
        until = time.monotonic() + ANSWER_S_MAX
        drawn = f"document.URL === {json.dumps(url)} && document.documentElement?.dataset.ready !== undefined"
        while not self.run(drawn):
            assert time.monotonic() < until, "the page never drew itself"

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.ask("WebDriver:ExecuteScript", script=f"return {script}", args=[])

    def picture(self, file: Path) -> None:
        """What is visible, as a PNG."""
        file.write_bytes(base64.b64decode(self.ask("WebDriver:TakeScreenshot", full=False)))


@contextmanager
def firefox() -> Iterator[Fox]:
    """A Firefox of its own, with an empty profile; both are gone afterwards."""
    binary = find_firefox()
    assert binary is not None
    with tempfile.TemporaryDirectory(prefix="cgrace-browser-", ignore_cleanup_errors=True) as folder:
        profile = Path(folder)
        lines = [f"user_pref({json.dumps(key)}, {json.dumps(value)});" for key, value in FIREFOX_PREFERENCES.items()]
        (profile / "user.js").write_text("\n".join(lines))
        environment = {**os.environ, "HOME": folder, "MOZ_HEADLESS": "1", "MOZ_REMOTE_SETTINGS_DEVTOOLS": "1"}
        process = subprocess.Popen(
            [binary, "--headless", "--no-remote", "--marionette", "--profile", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        try:
            with _connected(profile / "MarionetteActivePort", process) as connection:
                fox = Fox(connection)
                yield fox
                fox.ask("Marionette:Quit", flags=["eForceQuit"])
        finally:
            _end(process)


def _connected(port_file: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    until = time.monotonic() + ANSWER_S_MAX
    while time.monotonic() < until:
        assert process.poll() is None, "the browser ended at once"
        if port_file.is_file() and (text := port_file.read_text().strip()):
            return socket.create_connection(("127.0.0.1", int(text)), ANSWER_S_MAX)
        select.select([], [], [], 0.05)
    raise AssertionError("the browser never said where it listens")
