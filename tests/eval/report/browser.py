"""A browser that reaches nothing but files, and what it is asked in JavaScript."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.chromium import NO_NETWORK, chromium
from tests.tools import BROWSER, missing

LEVELS = """
const read = (video) => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d');
  pen.drawImage(video, 0, 0, 1, 1);
  return pen.getImageData(0, 0, 1, 1).data[0];
};
const levels = () => Object.fromEntries([...document.querySelectorAll('#cells figure')]
  .filter((cell) => cell.querySelector('video:not([hidden])'))
  .map((cell) => [cell.dataset.cell, read(cell.querySelector('video'))]));
"""


class Browser:
    """Chromium with a report open."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: object, seconds: float = 10) -> Any:
        """Wait until an expression is true; return it."""
        end = time.monotonic() + seconds
        while not (found := self.run(f"return {script}", *arguments)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return found

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.find("body").send_keys(key)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        found: list[str] = self.run(script, selector)
        return found

    def open(self, page: Path, hash_: str = "") -> None:
        """Open a page anew: another # alone would not load it again."""
        self.driver.get("about:blank")
        self.driver.get(f"{page.as_uri()}#{hash_}")
        self.wait("document.getElementById('title')?.textContent !== ''")

    def emulate(self, *, scheme: str = "light", motion: str = "no-preference") -> None:
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    @contextmanager
    def width(self, width: int) -> Iterator[None]:
        """Be as wide as a phone for a while."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def frame(self) -> int:
        return int(self.run("return document.getElementById('scrub').value"))

    def requests(self) -> list[str]:
        """Return what was asked for since the last call."""
        events = [
            json.loads(one["message"])["message"] for one in self.driver.get_log("performance")
        ]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def errors(self) -> list[str]:
        """Return what the console says since the last call."""
        return [one["message"] for one in self.driver.get_log("browser")]

    def picture(self) -> Any:
        """Return a screenshot as a PIL image."""
        image = pytest.importorskip("PIL.Image", reason="needs pillow")
        return image.open(io.BytesIO(base64.b64decode(self.driver.get_screenshot_as_base64())))


@contextmanager
def started() -> Iterator[Browser]:
    """Start Chromium, or skip the test."""
    pytest.importorskip("selenium", reason="needs selenium")
    if reason := missing(*BROWSER):
        pytest.skip(reason)
    # Only the tests read pixels of videos; a page that people open may not and need not.
    flags = (NO_NETWORK, "--allow-file-access-from-files", "--window-size=1300,1000")
    with chromium(*flags, logs=("browser", "performance")) as driver:
        driver.set_script_timeout(30)
        yield Browser(driver)


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)
