"""`python -m scripts.ui_pictures CLIP`: pictures of `dcgrid ui`, from a dropped clip to an edit.

They go to docs/pictures/ui. CLIP is bigbuckbunny.mp4. Needs the extra dcgrid[ui], selenium,
Chromium and its driver (Debian: chromium chromium-driver).
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.options import run_command
from dcgrid.errors import InputVideoError
from scripts.chromium import NO_NETWORK, chromium

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

PICTURES = Path(__file__).parents[1] / "docs" / "pictures" / "ui"
DESKTOP, PHONE = (1280, 1060), (375, 812)
ONLY_HERE = f"{NO_NETWORK}, EXCLUDE 127.0.0.1"
"""Flag of a browser that reaches this machine alone."""
_OPEN = "[...document.querySelectorAll('[role=tabpanel]')].find((one) => one.offsetParent)"
"""The tab that is shown."""


@contextmanager
def served(out: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `dcgrid ui` as people do; its address and process. It ends with the block."""
    command = [sys.executable, "-m", "dcgrid", "ui", "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        [*command, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        text=True,
        # How long earlier runs took on this machine is not for a picture.
        env=os.environ | {"DCGRID_CACHE_DIR": str(out / "cache")},
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


class Hands:
    """Somebody at the page.

    Args:
        driver: A browser.
        url: Address of the page.
    """

    def __init__(self, driver: "WebDriver", url: str) -> None:
        self.driver, self.url = driver, url

    def look(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Open the page anew in a window of this size, light or dark."""
        width, height = size
        metrics = {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": size == PHONE,
        }
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(self.url)
        self.wait("document.querySelectorAll('.dc-tile').length && !!document.title")

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - of JavaScript
        """Return what an expression is; `tab` in it is the tab that is shown."""
        return self.driver.execute_script(f"const tab = {_OPEN}; return {script}", *arguments)

    def wait(self, script: str, *arguments: object, seconds: float = 120) -> Any:  # noqa: ANN401
        """Wait until an expression is true; return it."""
        end = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            if time.monotonic() > end:
                raise InputVideoError(f"never true: {script}", hint="look at the page")
            time.sleep(0.1)
        return found

    def tab(self, name: str) -> None:
        """Turn to a tab."""
        self.run(f"[...document.querySelectorAll('[role=tab]')].find((one) => one.innerText.trim() "
                 f"=== '{name}').click()")  # fmt: skip
        self.wait(f"tab && tab.id === 'dc-{name.lower()}'")

    def drop(self, clip: Path, number: int = 0) -> None:
        """Drop a clip on one of the tab's places for clips."""
        self.wait("tab.querySelector('input[type=file]')")
        self.run("tab.querySelectorAll('input[type=file]')[arguments[0]]", number).send_keys(
            str(clip.resolve())
        )
        self.wait("tab.innerText.includes(arguments[0])", clip.stem)

    def choose(self, *names: str) -> None:
        """Click tiles."""
        for name in names:
            self.run("tab.querySelector(`.dc-tile input[value='${arguments[0]}']`).click()", name)

    def type(self, label: str, text: str) -> None:
        """Type into the field of this label."""
        field = self.run(
            "[...tab.querySelectorAll('label')].find((one) => one.innerText.trim().startsWith("
            "arguments[0])).querySelector('input, textarea')",
            label,
        )
        self.driver.execute_script("arguments[0].select()", field)
        field.send_keys(text)

    def open_options(self) -> None:
        """Open the options of the tab."""
        self.click("Options")
        self.wait(
            "[...tab.querySelectorAll('label')].some((one) => one.innerText.includes('Seed'))"
        )

    def click(self, text: str) -> None:
        """Click the tab's button of this text."""
        script = (
            "[...tab.querySelectorAll('button')].find((one) => !one.disabled && "
            "one.innerText.trim().split('\\n')[0] === arguments[0])"
        )
        self.wait(script, text)
        self.run(f"{script}.click()", text)

    def text(self, selector: str) -> str:
        """Return the text of the tab's first element of a kind, once there is one."""
        return str(self.wait("tab.querySelector(arguments[0])?.innerText", selector))

    def edit(self, clip: Path, effect: str, duration: str) -> None:
        """Drop a clip, choose an effect and a part of the clip, and wait for the plan."""
        self.drop(clip)
        self.choose(effect)
        self.open_options()
        self.type("Duration", duration)
        self.wait("tab.querySelector('.dc-plan')?.textContent.includes('Left out')")

    def done(self, seconds: float = 300) -> None:
        """Wait until the edit is made and its players show it."""
        self.wait("tab.querySelector('.dc-done, .dc-error')", seconds=seconds)
        assert not self.run("tab.querySelector('.dc-error')"), self.text(".dc-error")
        self.wait(
            "tab.querySelectorAll('.dc-cells video').length > 1 && "
            "[...tab.querySelectorAll('.dc-cells video')].every((one) => one.readyState >= 2)"
        )

    def save_picture(self, path: Path) -> None:
        """Take a picture of the window as it is."""
        with Image.open(io.BytesIO(self.driver.get_screenshot_as_png())) as picture:
            picture.convert("RGB").save(path, quality=72, method=6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.ui_pictures", description=__doc__)
    parser.add_argument("clip", type=Path, help="bigbuckbunny.mp4")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures")
    options = parser.parse_args(arguments)
    return run_command(lambda: take_pictures(options.clip, options.out))


def take_pictures(clip: Path, folder: Path) -> None:
    """Make an edit at the page twice, wide and on a phone, and look at it on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as out,
        served(Path(out)) as (url, _),
        chromium(ONLY_HERE, "--hide-scrollbars") as driver,
    ):
        hands = Hands(driver, url)
        for name, size, dark in (("wide", DESKTOP, False), ("phone", PHONE, True)):
            hands.look(size, dark=dark)
            # Those in view play; others wait for their turn.
            hands.wait("[...tab.querySelectorAll('.dc-tile video')].slice(0, 8).every((one) => "
                       "one.currentTime > 0)")  # fmt: skip
            if size == PHONE:
                hands.save_picture(folder / f"{name}-empty.webp")
            hands.edit(clip, "rain", "0.6")
            hands.click("Options")
            hands.click("Edit")
            hands.done()
            hands.run("scrollTo(0, 0)")
            if size == PHONE:
                hands.run("tab.querySelector('.dc-plan').scrollIntoView()")
            time.sleep(1)
            hands.save_picture(folder / f"{name}-done.webp")
        for tab in ("Compose", "Story"):
            hands.look(DESKTOP, dark=tab == "Story")
            hands.tab(tab)
            hands.drop(clip)
            time.sleep(2)
            hands.save_picture(folder / f"{tab.lower()}.webp")
    for path in sorted(folder.glob("*.webp")):
        print(f"wrote {path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    sys.exit(main())
