"""`python -m scripts.study_page`: a study from make to table, by a real browser, with pictures.

Edits a clip by `mini` with its usual steps and with three, makes a study of the two, has it taken
by three raters (one by the mouse, two by keys alone, one of whom fails the attention checks),
counts the answers, and writes pictures of the page. The raters are code that prefers one side of
the comparison three times in four: the table is a test of the way, not a finding.
"""

import argparse
import base64
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from selenium.webdriver.remote.webdriver import WebDriver

from benchmarks import options as shared
from dcgrid.eval.study.answers import read_answers
from dcgrid.eval.study.design import StudyKey
from dcgrid.eval.study.make import MadeStudy, StudyConfig, make_study
from dcgrid.eval.study.order import Draw
from dcgrid.eval.study.preferences import make_table
from dcgrid.eval.study.showing import table_lines
from scripts.study_page import browser as hands
from scripts.study_page.evaluation import OURS, edit_clip

PICTURES = Path("docs/pictures/study")
_COLOURS = 160
_CLIP = Path("../shared/clips/bigbuckbunny.mp4")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.study_page", description=__doc__)
    parser.add_argument("clip", nargs="?", type=Path, default=_CLIP, help=f"a video ({_CLIP})")
    parser.add_argument("--results", type=Path, help="results of `dcgrid eval`, in place of edits")
    parser.add_argument("--ours", default=OURS, help=f"the method in question ({OURS})")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help=f"folder ({PICTURES})")
    options = parser.parse_args(arguments)
    return shared.run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    options.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        results = options.results
        if results is None:
            results = work / "results"
            results.mkdir()
            edit_clip(options.clip, results)
        config = StudyConfig(ours=options.ours, contact="Ada Example, ada@example.org")
        made = make_study(results, work / "study", config, on_video=lambda *_: None)
        answers = work / "answers"
        answers.mkdir()
        with hands.browser(answers) as driver:
            _take_pictures(driver, made, options.pictures)
            _take_study(driver, made, answers)
        found, notes = read_answers([answers], made.key)
        print("\n".join(table_lines(make_table(made.key, found, notes))))


def _take_study(driver: WebDriver, made: MadeStudy, answers: Path) -> None:
    url = (made.folder / "page" / "index.html").resolve().as_uri()
    hands.look(driver, hands.DESKTOP)
    for number, name in enumerate(("ada", "bela", "careless")):
        hands.begin(driver, url, name)
        choose = chooser(made.key, number, passes=name != "careless")
        answer = hands.answer_by_clicks if number == 0 else hands.answer_by_keys
        count = hands.take(driver, choose, answer)
        path = hands.download(driver, answers)
        print(f"{name}: {count} pairs, {path.name}, {path.stat().st_size:,} bytes")


def chooser(key: StudyKey, seed: int, *, passes: bool) -> hands.Choose:
    """Return a rater who prefers the method in question three times in four.

    Args:
        key: The study.
        seed: What the choices are drawn with.
        passes: True: attention checks are answered rightly; False: wrongly.
    """
    draw = Draw(seed)
    ours = {pair.ours for pair in key.pairs}
    good = {check.good for check in key.checks}
    checked = {file for check in key.checks for file in check.files}

    def choose(left: str, right: str, question: str) -> str:
        if left in checked:
            return left if (left in good) == passes else right
        wants_ours = draw.below(4) > 0
        return left if (left in ours) == wants_ours else right

    return choose


def _take_pictures(driver: WebDriver, made: MadeStudy, folder: Path) -> None:
    """Write pictures of the page: the beginning, a pair in light, dark and on a phone, the end."""
    url = (made.folder / "page" / "index.html").resolve().as_uri()
    hands.look(driver, hands.DESKTOP)
    hands.open_afresh(driver, url)
    _picture(driver, folder / "intro.png", whole=True)
    hands.begin(driver, url, "example")
    _to_a_pair(driver, made.key)
    hands.press(driver, "a", "b", "a")
    for name, size, dark in (
        ("pair-light", hands.DESKTOP, False),
        ("pair-dark", hands.DESKTOP, True),
        ("pair-phone", hands.PHONE, False),
    ):
        hands.look(driver, size, dark=dark)
        _hold(driver)
        _picture(driver, folder / f"{name}.png", whole=size == hands.PHONE)
    hands.look(driver, hands.DESKTOP)
    hands.take(driver, lambda left, *_: left)
    _picture(driver, folder / "end.png")


def _to_a_pair(driver: WebDriver, key: StudyKey) -> None:
    """Go on to a pair that is no attention check."""
    hands.wait_for_videos(driver)
    checked = {file for check in key.checks for file in check.files}
    while hands.shown_files(driver)[0] in checked:
        hands.answer_by_keys(driver, lambda left, *_: left)
        hands.wait_for_videos(driver)


def _hold(driver: WebDriver) -> None:
    """Show a moment in the middle of all videos."""
    driver.execute_async_script(
        """const done = arguments[0], seek = document.getElementById("seek");
        seek.value = "600";
        seek.dispatchEvent(new Event("input"));
        setTimeout(done, 700);"""
    )


def _picture(driver: WebDriver, path: Path, *, whole: bool = False) -> None:
    """Write what the window shows, or the whole page, as a small PNG."""
    shot: Callable[..., dict[str, str]] = driver.execute_cdp_cmd
    height = driver.execute_script("return document.documentElement.scrollHeight")
    width = driver.execute_script("return innerWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    values = {"captureBeyondViewport": True, "clip": clip} if whole else {}
    path.write_bytes(base64.b64decode(shot("Page.captureScreenshot", values)["data"]))
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(json.dumps({"picture": str(path), "bytes": path.stat().st_size}))


if __name__ == "__main__":
    raise SystemExit(main())
