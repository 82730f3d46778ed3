"""The page in a real browser: taken from start to table, by keys, on a phone, and by the rules."""

import http.server
import itertools
import json
import shutil
import threading
import time
from functools import partial

import pytest

pytest.importorskip("selenium", reason="drives a browser; part of the extra dcgrid[dev]")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from dcgrid.eval.study.answers import read_answers
from dcgrid.eval.study.preferences import make_table
from dcgrid.eval.study.serve import make_server
from scripts.study_page import browser as hands
from tests.eval.study.conftest import FAR, NEAR
from tests.tools import BROWSER, needs

pytestmark = [pytest.mark.slow, needs(*BROWSER)]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def shared_browser(downloads):
    with hands.browser(downloads) as driver:
        yield driver


@pytest.fixture
def driver(shared_browser, downloads):
    """The browser, with nothing kept from the test before."""
    for path in downloads.iterdir():
        path.unlink()
    hands.look(shared_browser, hands.DESKTOP)
    return shared_browser


@pytest.fixture
def url(shared_study):
    return (shared_study.folder / "page" / "index.html").as_uri()


def chooser(key, *, ours_for, passes=True):
    """For us in these (method, question); right in checks unless told otherwise."""
    pairs = {file: pair for pair in key.pairs for file in pair.files}
    good = {check.good for check in key.checks}

    def choose(left, right, question):
        if left not in pairs:
            return left if (left in good) == passes else right
        pair = pairs[left]
        return left if (left == pair.ours) == ((pair.against, question) in ours_for) else right

    return choose


def text(driver, name):
    return driver.find_element(By.ID, name).text


def test_from_start_to_table_by_keys_and_by_clicks(driver, url, shared_study, downloads):
    key = shared_study.key
    everything = {(method, one) for method in (NEAR, FAR) for one in hands.QUESTIONS}
    raters = {
        "ada": (chooser(key, ours_for=everything), hands.answer_by_keys),
        "bo": (chooser(key, ours_for={(NEAR, "ip"), (FAR, "op")}), hands.answer_by_clicks),
        "cy": (chooser(key, ours_for=everything, passes=False), hands.answer_by_keys),
    }
    for rater, (choose, answer) in raters.items():
        hands.begin(driver, url, rater)
        assert hands.take(driver, choose, answer) == len(key.pairs) + len(key.checks) == 11
        path = hands.download(driver, downloads)
        assert path.name == f"answers-{key.id}-{rater}.json"
        assert json.loads(path.read_text()) == json.loads(
            driver.find_element(By.ID, "end-text").get_property("value")
        )
    found, notes = read_answers([downloads], key)
    assert notes == []
    table = make_table(key, found)
    assert [(one.rater, one.is_counted) for one in table.raters] == [
        ("ada", True),
        ("bo", True),
        ("cy", False),
    ]
    shares = {(row.against, one.question): one.ours for row in table.rows for one in row.cells}
    # Four pairs of each comparison; ada is for us in all, bo in two of eight questions.
    expected = dict.fromkeys(everything, 4) | {(NEAR, "ip"): 8, (FAR, "op"): 8}
    assert shares == expected
    assert {one.answers for row in table.rows for one in row.cells} == {8}
    errors = [one for one in driver.get_log("browser") if one["level"] == "SEVERE"]
    assert errors == []


def test_a_reload_goes_on_and_back_shows_what_was_answered(driver, url, shared_study):
    hands.begin(driver, url, "ada")
    for _ in range(3):
        hands.answer_by_keys(driver, lambda left, *_: left)
    hands.press(driver, "b")
    files = hands.shown_files(driver)
    driver.refresh()
    WebDriverWait(driver, hands.WAIT_S).until(lambda one: hands.view(one) == "intro")
    assert "ada: 3 of 11 steps" in text(driver, "resume-text")
    driver.find_element(By.ID, "resume-go").click()
    assert text(driver, "trial-head") == "Pair 4 of 11"
    assert hands.shown_files(driver) == files
    assert driver.find_element(By.ID, "ip-right").is_selected()
    driver.find_element(By.ID, "back").click()
    assert text(driver, "trial-head") == "Pair 3 of 11"
    assert all(driver.find_element(By.ID, f"{one}-left").is_selected() for one in hands.QUESTIONS)
    # The new pair's heading has the focus, so that a screen reader begins there.
    assert driver.switch_to.active_element.get_attribute("id") == "trial-head"


def test_a_browser_that_keeps_nothing_is_told_and_the_study_still_works(
    driver, url, shared_study, downloads
):
    script = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } })"
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        hands.begin(driver, url, "ada")
        assert "a reload begins anew" in text(driver, "not-kept")
        hands.take(driver, lambda left, *_: left)
        found, _ = read_answers([hands.download(driver, downloads)], shared_study.key)
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert found[0].rater == "ada"


def test_what_is_missing_is_asked_for(driver, url):
    hands.open_afresh(driver, url)
    driver.find_element(By.CSS_SELECTOR, "#start button").click()
    assert "tick the box" in text(driver, "consent-error")
    name = driver.find_element(By.ID, "rater")
    name.clear()
    name.send_keys("a b/c", Keys.ENTER)
    assert "letters, digits" in text(driver, "rater-error")
    assert hands.view(driver) == "intro"
    hands.begin(driver, url, "ada")
    hands.press(driver, "a", "b", Keys.ENTER)
    assert text(driver, "trial-error") == "Still to answer: Text, Overall."
    assert driver.switch_to.active_element.get_attribute("id") == "ap-left"
    # Arrow keys choose within a question; letters do nothing once they are switched off.
    hands.press(driver, Keys.ARROW_RIGHT)
    assert driver.find_element(By.ID, "ap-right").is_selected()
    driver.find_element(By.CSS_SELECTOR, ".keys summary").click()
    driver.find_element(By.ID, "letters").click()
    driver.find_element(By.ID, "ip-left").click()
    hands.press(driver, "b")
    assert driver.find_element(By.ID, "ip-left").is_selected()


def test_videos_play_together_loop_and_are_noted_as_seen(driver, url):
    hands.begin(driver, url, "ada")
    hands.wait_for_videos(driver)
    times = "return [...document.querySelectorAll('video')].map((one) => one.currentTime)"
    stored = "return JSON.parse(Object.values(localStorage)[0]).trials[0].seen"
    seen = {"original": True, "left": True, "right": True}
    WebDriverWait(driver, hands.WAIT_S).until(lambda one: one.execute_script(stored) == seen)
    for _ in range(10):
        now = driver.execute_script(times)
        assert max(now) - min(now) < 0.25, now
        time.sleep(0.1)
    # One second long, and played again and again.
    moments = []
    for _ in range(30):
        moments.append(driver.execute_script(times)[0])
        time.sleep(0.1)
    assert sum(later < earlier for earlier, later in itertools.pairwise(moments)) >= 2
    paused = "return [...document.querySelectorAll('video')].every((one) => one.paused)"
    hands.press(driver, "p")
    assert driver.execute_script(paused)
    assert text(driver, "play") == "Play"
    hands.press(driver, "s")
    rates = "return [...document.querySelectorAll('video')].map((one) => one.playbackRate)"
    assert driver.execute_script(rates) == [0.5] * 3


def test_less_motion_plays_nothing_by_itself(driver, url):
    reduce = {"name": "prefers-reduced-motion", "value": "reduce"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [reduce]})
    hands.begin(driver, url, "ada")
    hands.wait_for_videos(driver)
    time.sleep(0.5)
    assert driver.execute_script(
        "return [...document.querySelectorAll('video')].every("
        "(one) => one.paused && one.currentTime === 0)"
    )


def test_a_video_that_cannot_be_loaded_is_told_and_recorded(
    driver, shared_study, tmp_path, downloads
):
    shutil.copytree(shared_study.folder / "page", tmp_path / "page")
    hands.begin(driver, (tmp_path / "page" / "index.html").as_uri(), "ada")
    left, _ = hands.shown_files(driver)
    (tmp_path / "page" / "media" / left).write_bytes(b"no video")
    hands.begin(driver, (tmp_path / "page" / "index.html").as_uri(), "ada")
    lost = WebDriverWait(driver, hands.WAIT_S).until(
        lambda one: one.find_element(By.CLASS_NAME, "lost")
    )
    assert "A could not be loaded" in lost.text
    assert "will not count" in text(driver, "trial-error")
    hands.press(driver, Keys.ENTER)
    assert text(driver, "trial-head") == "Pair 2 of 11"
    hands.take(driver, lambda one, *_: one)
    found, _ = read_answers([hands.download(driver, downloads)], shared_study.key)
    assert found[0].trials[0].chosen == {}
    assert all(trial.chosen for trial in found[0].trials[1:])


def test_a_phone_sees_all_and_can_hit_it(driver, url):
    hands.look(driver, hands.PHONE)
    for view in ("intro", "trial", "end"):
        if view == "intro":
            hands.open_afresh(driver, url)
        elif view == "trial":
            hands.begin(driver, url, "ada")
            hands.wait_for_videos(driver)
        else:
            hands.take(driver, lambda left, *_: left)
        wide, inner = driver.execute_script(
            "return [document.documentElement.scrollWidth, innerWidth]"
        )
        assert inner == 390
        assert wide <= 390, view
        small = driver.execute_script(
            """return [...document.querySelectorAll(`button, .choice span, .tick, summary,
              input[type=text], input[type=range]`)]
              .map((one) => [one, one.getBoundingClientRect()])
              .filter(([, box]) => box.width > 0 && (box.width < 43.9 || box.height < 43.9))
              .map(([one]) => one.outerHTML)"""
        )
        assert small == [], view


NAMES = """
const named = (one) => one.labels?.length > 0 || one.getAttribute("aria-label") ||
  (one.tagName === "BUTTON" || one.tagName === "SUMMARY") && one.textContent.trim() !== "";
return [...document.querySelectorAll("input, button, textarea, summary, video")]
  .filter((one) => !(one.tagName === "VIDEO" ? one.getAttribute("aria-label") : named(one)))
  .map((one) => one.outerHTML);
"""

# The least ratio of text to what is behind it (WCAG 2.2, 1.4.3), over all text in view.
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255)
  + 0.0722 * linear(b / 255);
function behind(one) {
  for (let at = one; at !== null; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
}
const found = [];
for (const one of document.querySelectorAll("body *")) {
  const hasText = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const skipped = one.closest("script, [hidden], .hidden-text, :disabled, noscript");
  if (!hasText || skipped || one.getClientRects().length === 0) continue;
  const [front, back] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
  const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
  found.push([ratio, one.outerHTML.slice(0, 100)]);
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_everything_has_a_name_and_can_be_read(driver, url, dark):
    hands.look(driver, hands.DESKTOP, dark=dark)
    hands.open_afresh(driver, url)
    for view in ("intro", "trial", "end"):
        if view == "trial":
            hands.begin(driver, url, "ada")
            hands.press(driver, "a", Keys.ENTER)
            driver.find_element(By.CSS_SELECTOR, ".keys summary").click()
        elif view == "end":
            hands.take(driver, lambda left, *_: left)
            driver.find_element(By.CSS_SELECTOR, "#end-details summary").click()
        assert driver.execute_script(NAMES) == []
        ratios = driver.execute_script(CONTRAST)
        assert len(ratios) > 5
        assert [one for one in ratios if one[0] < 4.5] == []
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(16, 19, 24)") == dark
    assert driver.execute_script("return document.documentElement.lang") == "en"


def test_the_tab_key_goes_through_the_page_in_order(driver, url):
    hands.begin(driver, url, "ada")
    hands.wait_for_videos(driver)
    # Where the focus is can be seen: on the element, or on the face of a choice.
    focused = """const at = document.activeElement;
        const face = at.type === "radio" ? at.nextElementSibling : at;
        return [at.id, getComputedStyle(face).outlineStyle];"""
    order = []
    for _ in range(9):
        hands.press(driver, Keys.TAB)
        name, outline = driver.execute_script(focused)
        order.append(name)
        assert outline == "solid", name
    radios = [f"{one}-left" for one in hands.QUESTIONS]
    # Nothing is chosen yet and "previous" is off in the first pair.
    assert order == ["play", "again", "slow", "seek", *radios, "next"]


def test_a_is_the_left_video_to_eyes_ears_and_answers(driver, url):
    hands.begin(driver, url, "ada")
    for place, letter in (("left", "A"), ("right", "B")):
        figure = driver.find_element(By.CSS_SELECTOR, f"figure.{place}")
        assert figure.find_element(By.TAG_NAME, "figcaption").text == letter
        video = figure.find_element(By.TAG_NAME, "video")
        assert video.get_attribute("aria-label").startswith(f"Edit {letter},")
        assert video.get_attribute("data-place") == place
        for question in hands.QUESTIONS:
            label = driver.find_element(By.CSS_SELECTOR, f"label[for={question}-{place}]")
            assert label.text == letter
    order = "return [...document.querySelectorAll('figcaption')].map((one) => one.textContent)"
    assert driver.execute_script(order) == ["Original", "A", "B"]


def test_groups_have_legends_and_progress_is_spoken(driver, url):
    hands.begin(driver, url, "ada")
    legends = driver.execute_script(
        "return [...document.querySelectorAll('fieldset')].map((one) =>"
        " one.firstElementChild.tagName + ':' + one.firstElementChild.textContent)"
    )
    assert len(legends) == 4
    assert all(one.startswith("LEGEND:") and one.endswith("?") for one in legends)
    spoken = driver.find_element(By.ID, "progress-text")
    assert spoken.get_attribute("aria-live") == "polite"
    assert spoken.text.startswith("1 of 11")


def test_served_by_dcgrid_the_page_sends_the_answers(driver, shared_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(shared_study.folder, folder)
    server = make_server(folder, "127.0.0.1", 0, lambda _: None)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        hands.begin(driver, f"http://127.0.0.1:{server.server_port}/", "ada")
        hands.take(driver, lambda left, *_: left)
        driver.find_element(By.ID, "send").click()
        WebDriverWait(driver, hands.WAIT_S).until(lambda one: "Sent" in text(one, "end-status"))
    finally:
        driver.get("about:blank")
        server.shutdown()
        thread.join()
        server.server_close()
    found, _ = read_answers([folder / "answers"], shared_study.key)
    assert [one.rater for one in found] == ["ada"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_from_any_other_web_server_it_downloads(driver, shared_study, downloads):
    page = shared_study.folder / "page"
    handler = partial(_Quiet, directory=str(page))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        hands.begin(driver, f"http://127.0.0.1:{server.server_port}/index.html", "ada")
        hands.take(driver, lambda left, *_: left)
        assert not driver.find_element(By.ID, "send").is_displayed()
        found, _ = read_answers([hands.download(driver, downloads)], shared_study.key)
        assert found[0].rater == "ada"
    finally:
        driver.get("about:blank")
        server.shutdown()
        thread.join()
        server.server_close()
