"""`python -m scripts.report_page DIR`: pictures of the report of a real `dcgrid eval` run.

DIR is what `dcgrid eval --out DIR` wrote. The pictures go to docs/pictures/report. Needs selenium,
Chromium and its driver (Debian: chromium chromium-driver).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.options import run_command
from dcgrid.errors import InputVideoError
from dcgrid.eval.report import write_report
from dcgrid.eval.results import ClipEntry, Item, Results, read_results
from scripts.chromium import NO_NETWORK, chromium

PICTURES = Path(__file__).parents[1] / "docs" / "pictures" / "report"
WAIT_S = 30
"""How long a page may take to show its videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of the page."""

    name: str
    """Of the file, without .png."""
    shows: dict[str, str]
    """What the address says behind its #."""
    width: int = 1280
    """Of the window in pixels."""
    height: int = 900
    """Of the window in pixels."""
    scheme: str = "light"
    """light or dark."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.report_page", description=__doc__)
    parser.add_argument("folder", type=Path, help="what `dcgrid eval --out` wrote")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument("--clip", help="the clip to show (the first that has videos)")
    options = parser.parse_args(arguments)
    return run_command(lambda: take_pictures(options))


def take_pictures(options: argparse.Namespace) -> None:
    """Write the page anew, so that it is of this version, and take its pictures."""
    results = read_results(options.folder / "results.json")
    page = write_report(options.folder, results).resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = choose_pictures(results, options.clip)
    with chromium(NO_NETWORK, "--hide-scrollbars") as driver:
        for picture in pictures:
            path = options.out / f"{picture.name}.png"
            _take(driver, page, picture, path)
            print(f"wrote {path}")


def choose_pictures(results: Results, wanted: str | None) -> list[Picture]:
    """Choose what to show: the clip and task of the first video of the first method.

    Raises:
        InputVideoError: There is no video, or none of the clip that was named.
    """
    done = [one for one in results.items if one.status == "done" and wanted in (None, one.clip)]
    if not done:
        what = "no video is done" if wanted is None else f"no video of {wanted} is done"
        hint = "name a clip of results.json with --clip"
        raise InputVideoError(f"{what} in these results", hint=hint)
    item = done[0]
    place = _place(results, item)
    wipe = {"left": "source", "right": f"m:{item.method}", "wipe": "50"}
    worst = {"view": "items", "sort": f"m:{results.metrics[0].key}", "worst": "1"}
    return [
        Picture(name="summary", shows={"view": "summary"}),
        Picture(name="summary-dark", shows={"view": "summary"}, scheme="dark"),
        Picture(name="videos", shows=place, height=1150),
        Picture(name="videos-dark", shows=place, height=1150, scheme="dark"),
        Picture(name="wipe", shows=place | wipe),
        Picture(name="items", shows=worst),
        Picture(name="phone", shows=place, width=390, height=844),
    ]


def _place(results: Results, item: Item) -> dict[str, str]:
    """Return what the address says of an item, at the middle of its clip."""
    clip: ClipEntry = next(one for one in results.clips if one.key == item.clip)
    place = {"view": "videos", "clip": item.clip, "task": item.task, "seed": str(item.seed)}
    return place | {"frame": str(clip.frames // 2)}


def _take(driver: Any, page: Path, picture: Picture, path: Path) -> None:  # noqa: ANN401
    """Open the page as a picture wants it, wait for its videos, and write the picture."""
    scheme = [{"name": "prefers-color-scheme", "value": picture.scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    size = {"width": picture.width, "height": picture.height, "deviceScaleFactor": 1}
    size["mobile"] = picture.width < 600
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get("about:blank")
    driver.get(f"{page.as_uri()}#{urlencode(picture.shows)}")
    still = (
        "return [...document.querySelectorAll('video:not([hidden])')].filter((one) => one.src)"
        ".every((one) => one.readyState >= 2 && !one.seeking)"
    )
    end = time.monotonic() + WAIT_S
    time.sleep(0.5)  # the page first sees which videos are in view
    while not driver.execute_script(still):
        if time.monotonic() > end:
            raise InputVideoError(f"videos of {page} do not load", hint="open it in a browser")
        time.sleep(0.1)
    time.sleep(0.3)  # a frame that is decoded is not yet generated
    driver.save_screenshot(str(path))


if __name__ == "__main__":
    sys.exit(main())
