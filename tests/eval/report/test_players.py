"""Videos side by side: their frames are read from their pixels."""

from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.eval.report.browser import LEVELS, Browser, until
from tests.eval.report.folder import DARKEST, FRAMES, HOSTILE, STEP

pytestmark = pytest.mark.slow

RAIN = "view=videos&clip=dog&task=rain"
LONG = ("source", "m:ours", "m:flow edit", "truth")
"""Cells that have all frames; SDEdit's has half of them."""


def shown_frames(browser: Browser) -> dict[str, int]:
    """Return the frame that each cell shows."""
    levels = browser.run(f"{LEVELS} return levels()")
    return {cell: round((level - DARKEST) / STEP) for cell, level in levels.items()}


def open_still(browser: Browser, page: Path, hash_: str = RAIN, frame: int = 0) -> None:
    browser.open(page, f"{hash_}&frame={frame}")
    ready = (
        "[...document.querySelectorAll('#cells video:not([hidden])')]"
        ".every((video) => video.readyState >= 2 && !video.seeking)"
    )
    browser.wait(ready)


def test_a_link_to_a_frame_shows_that_frame_everywhere(browser: Browser, page: Path) -> None:
    open_still(browser, page, frame=17)
    wanted = {**dict.fromkeys(LONG, 17), "m:sdedit": FRAMES // 2 - 1}
    until(lambda: shown_frames(browser) == wanted)
    assert browser.frame() == 17


def test_steps_and_ends_by_key(browser: Browser, page: Path) -> None:
    open_still(browser, page, frame=3)
    browser.press(".", ".", ",")
    until(lambda: set(shown_frames(browser).values()) == {4})
    browser.find("body").send_keys("\ue010")  # End
    until(lambda: shown_frames(browser)["source"] == FRAMES - 1)
    assert browser.frame() == FRAMES - 1
    browser.press(",")
    until(lambda: shown_frames(browser)["m:ours"] == FRAMES - 2)


def test_scrubbing_seeks_all(browser: Browser, page: Path) -> None:
    open_still(browser, page)
    # Many config at once, as a drag makes them; the last counts.
    browser.run(
        "const scrub = document.getElementById('scrub');"
        "for (let frame = 1; frame <= 20; frame += 1) {"
        " scrub.value = frame; scrub.dispatchEvent(new Event('input')); }"
    )
    wanted = {**dict.fromkeys(LONG, 20), "m:sdedit": FRAMES // 2 - 1}
    until(lambda: shown_frames(browser) == wanted)
    browser.wait("location.hash.includes('frame=20')")


SAMPLE = (
    LEVELS
    + """
const done = arguments[arguments.length - 1];
const samples = [];
const end = performance.now() + arguments[0];
const look = () => {
  samples.push(levels());
  if (performance.now() < end) requestAnimationFrame(look); else done(samples);
};
requestAnimationFrame(look);
"""
)


@pytest.mark.parametrize("speed", ["1", "0.25", "2"])
def test_playing_videos_stay_within_a_frame(browser: Browser, page: Path, speed: str) -> None:
    open_still(browser, page, f"{RAIN}&speed={speed}")
    browser.press(" ")
    browser.wait("Number(document.getElementById('scrub').value) >= 2")
    samples = browser.driver.execute_async_script(SAMPLE, 3000)
    frames = [
        [round((sample[cell] - DARKEST) / STEP) for cell in LONG if cell in sample]
        for sample in samples
    ]
    apart = []
    for one in frames:
        gap = max(one) - min(one)
        apart.append(min(gap, FRAMES - gap) if gap > FRAMES // 2 else gap)  # 23 is beside 0
    assert len(samples) > 20
    assert len({one[0] for one in frames}) > 5, "they do not play"
    # A busy machine may show one of them late for a moment, and no longer.
    within = sum(gap <= 1 for gap in apart) / len(apart)
    assert within >= 0.95, sorted(apart)[-10:]


def test_without_loop_it_stops_at_the_last_frame(browser: Browser, page: Path) -> None:
    open_still(browser, page, f"{RAIN}&loop=0&speed=2", frame=FRAMES - 6)
    browser.press(" ")
    browser.wait("document.getElementById('play').textContent === 'Pause'")
    browser.wait("document.getElementById('play').textContent === 'Play'")
    wanted = {**dict.fromkeys(LONG, FRAMES - 1), "m:sdedit": FRAMES // 2 - 1}
    until(lambda: shown_frames(browser) == wanted)


def test_pausing_leaves_all_on_one_frame(browser: Browser, page: Path) -> None:
    open_still(browser, page)
    browser.press(" ")
    browser.wait("Number(document.getElementById('scrub').value) >= 5")
    browser.press(" ")
    until(lambda: len({shown_frames(browser)[cell] for cell in LONG}) == 1)
    assert shown_frames(browser)["source"] == browser.frame()
    browser.wait("location.hash.includes('frame=')")


def test_it_plays_by_itself_unless_motion_is_not_wanted(browser: Browser, page: Path) -> None:
    browser.open(page, RAIN)
    browser.wait("Number(document.getElementById('scrub').value) >= 2")
    browser.emulate(motion="reduce")
    browser.open(page, RAIN)
    browser.wait("document.querySelector('#cells video').readyState >= 2")
    assert browser.run("return document.getElementById('play').textContent") == "Play"
    assert browser.frame() == 0


def test_hostile_names_play_and_the_second_input_is_shown(browser: Browser, page: Path) -> None:
    open_still(browser, page, urlencode({"view": "videos", "clip": HOSTILE, "task": "rain"}), 4)
    wanted = dict.fromkeys(("source", "second", "m:ours", "m:sdedit", "m:flow edit"), 4)
    until(lambda: shown_frames(browser) == wanted)
    assert browser.run("return window.hacked") is None


def test_what_is_not_there_says_so(browser: Browser, page: Path) -> None:
    open_still(browser, page, urlencode({"view": "videos", "clip": "dog", "task": "night & day"}))
    browser.wait("document.querySelector('[data-cell=\"m:ours\"] .instead:not([hidden])') !== null")
    words = dict(zip(browser.texts(".cell b"), browser.texts(".cell .picture"), strict=True))
    assert "cannot be played" in words["Ours"]
    assert words["SDEdit"].startswith("out of memory </script>")
    assert words["FlowEdit"] == "No video was handed in."
    # The lost file stops nobody: the source plays on.
    browser.press(" ")
    browser.wait("Number(document.getElementById('scrub').value) >= 4", seconds=20)


SPACED = (
    "document.querySelectorAll('.cell').forEach((cell) => { cell.style.marginBottom = '900px'; });"
)
"""Puts cells far below each other, as hundreds of them would be."""


def test_out_of_view_nothing_is_loaded(browser: Browser, page: Path) -> None:
    with browser.width(320):
        browser.open(page, f"{RAIN}&frame=0")
        browser.wait("document.querySelector('#cells video').readyState >= 2")
        browser.run(
            "const pick = document.getElementById('pick-clip');"
            f"pick.selectedIndex = 1; pick.dispatchEvent(new Event('change')); {SPACED}"
        )
        browser.wait("document.querySelector('#cells video').readyState >= 2")
        loaded = browser.run(
            "return [...document.querySelectorAll('#cells video')].map((video) => video.src !== '')"
        )
        assert loaded[0]
        assert not loaded[-1]
        browser.run("[...document.querySelectorAll('#cells video')].at(-1).scrollIntoView()")
        browser.wait("[...document.querySelectorAll('#cells video')].at(-1).readyState >= 2")


def test_wipe_by_pointer_and_key(browser: Browser, page: Path) -> None:
    open_still(browser, page, f"{RAIN}", frame=9)
    browser.press("w")
    browser.wait("document.querySelectorAll('#stage video').length === 2")
    browser.wait(
        "[...document.querySelectorAll('#stage video')].every((one) => one.readyState >= 2)"
    )
    assert "left=source" in browser.run("return location.hash")
    assert browser.texts("#stage .tag") == ["Ours", "Source"]
    divider = browser.find("#divider")
    assert divider.get_attribute("aria-valuenow") == "50"
    divider.send_keys("\ue014\ue014")  # right, right
    assert divider.get_attribute("aria-valuenow") == "54"
    edge = browser.run("return getComputedStyle(document.querySelector('#stage .left')).clipPath")
    assert "46%" in edge
    actions = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains
    width = browser.run("return document.getElementById('stage').clientWidth")
    moves = actions(browser.driver).move_to_element(browser.find("#stage"))
    moves.click_and_hold().move_by_offset(-width // 4, 0).release().perform()
    assert abs(int(divider.get_attribute("aria-valuenow")) - 25) <= 1
    assert browser.frame() == 9
    browser.press("w")
    browser.wait("document.querySelectorAll('#cells video').length === 5")


def test_zoom_is_of_the_same_place_in_all(browser: Browser, page: Path) -> None:
    open_still(browser, page)
    actions = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains
    box = browser.find("#cells .picture")
    actions(browser.driver).move_to_element_with_offset(box, 30, 10).click().perform()
    script = (
        "return [...document.querySelectorAll('#cells video')].map((video) => {"
        " const style = getComputedStyle(video); const [x, y] = style.transformOrigin.split(' ');"
        " return [style.transform, Math.round(100 * parseFloat(x) / video.clientWidth),"
        " Math.round(100 * parseFloat(y) / video.clientHeight)]; })"
    )
    found = browser.run(script)
    assert len({tuple(one) for one in found}) == 1
    assert found[0][0] == "matrix(3, 0, 0, 3, 0, 0)"
    assert found[0][1] > 55
    browser.press("\ue00c")  # Esc
    assert browser.run(script)[0][0] in ("none", "matrix(1, 0, 0, 1, 0, 0)")


def test_plots_have_a_path_a_method_with_gaps_and_a_cursor(browser: Browser, page: Path) -> None:
    open_still(browser, page)
    plots = browser.run(
        "return [...document.querySelectorAll('.plot')].map((plot) => [plot.dataset.metric,"
        " [...plot.querySelectorAll('path[data-method]')].map((path) => [path.dataset.method,"
        " path.getAttribute('d')])])"
    )
    assert [metric for metric, _ in plots] == ["id", "flicker"]
    methods = dict(plots[0][1])
    assert list(methods) == ["ours", "sdedit", "flow edit"]
    assert all(drawn.count("M") == 2 for drawn in methods.values())
    assert all(drawn.count("L") == FRAMES - 4 - 2 for drawn in methods.values())
    assert all(drawn.count("M") == 1 for _, drawn in plots[1][1])
    place = "return document.querySelector('.plot .cursor').getAttribute('x1')"
    before = float(browser.run(place))
    browser.press(".", ".")
    assert float(browser.run(place)) > before
    actions = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains
    actions(browser.driver).move_to_element(browser.find(".plot svg")).click().perform()
    assert browser.frame() > 8
    until(lambda: shown_frames(browser)["m:ours"] == browser.frame())
