"""The page in a real browser: from a dropped clip to a saved edit, stopped, wrong, by keys."""

import json
import signal
import time
import urllib.request
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio", reason="needs the extra dcgrid[ui]")
pytest.importorskip("selenium", reason="drives a browser; part of the extra dcgrid[dev]")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from dcgrid.cli.main import main
from scripts.chromium import chromium
from scripts.ui_pictures import DESKTOP, ONLY_HERE, PHONE, Hands, served
from tests.tools import BROWSER, needs

pytestmark = [pytest.mark.slow, needs(*BROWSER)]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def url(out):
    with served(out) as (url, _):
        yield url


@pytest.fixture(scope="module")
def driver():
    with chromium(ONLY_HERE, "--hide-scrollbars", logs=("browser", "performance")) as driver:
        yield driver


@pytest.fixture
def hands(driver, url):
    """Somebody at the page; whatever they do, the page asks this machine alone."""
    driver.get("about:blank")  # away from Chromium's own first page, which asks for its own
    driver.get_log("performance")
    driver.get_log("browser")
    yield Hands(driver, url)
    events = [json.loads(one["message"])["message"] for one in driver.get_log("performance")]
    asked = [
        urlsplit(one["params"]["request"]["url"])
        for one in events
        if one["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) > 20
    assert {one.hostname for one in asked if one.scheme not in ("data", "blob", "about")} == {
        "127.0.0.1"
    }
    assert [one for one in driver.get_log("browser") if one["level"] == "SEVERE"] == []


def copied(clip, name):
    """A clip of its own contents: a box of the free kind makes it another one and no worse."""
    path = clip.with_name(name)
    path.write_bytes(clip.read_bytes() + b"\0\0\0\x10free" + f"{time.time_ns()}"[-8:].encode())
    return path


def press(hands, *keys):
    for key in keys:
        ActionChains(hands.driver).send_keys(key).perform()


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_from_a_dropped_clip_to_a_saved_edit(hands, out, clip, size, dark) -> None:
    hands.look(size, dark=dark)
    hands.edit(copied(clip, f"bird{size[0]}.mp4"), "rain", "0.5")
    assert "Result: 96x64" in hands.text(".dc-plan")
    hands.click("Edit")
    hands.done()
    # Before and after go on together, and stop at one frame.
    hands.click("Pause")
    times = "[...tab.querySelectorAll('.dc-cells video')].map((one) => one.currentTime)"
    hands.wait("[...tab.querySelectorAll('.dc-cells video')].every((one) => !one.seeking)")
    before, after = hands.run(times)
    assert before == pytest.approx(after, abs=1 / 24)
    frame = hands.run("Number(tab.querySelector('.dc-bar input').value)")
    step = "One frame back" if frame else "One frame on"
    hands.run("tab.querySelector(`[aria-label='${arguments[0]}']`).click()", step)
    hands.wait("Number(tab.querySelector('.dc-bar input').value) !== arguments[0]", frame)
    # What the links save is what lies in the folder, beside the clip.
    links = hands.run("[...tab.querySelectorAll('.dc-done a')].map((one) => one.href)")
    assert [one.rpartition(".")[2] for one in links] == ["mp4", "png", "json"]
    (folder,) = out.glob(f"bird{size[0]}-*")
    for link in links:
        with urllib.request.urlopen(link) as answer:
            assert answer.read() == (folder / link.rpartition("/")[2]).read_bytes()
    wide = "document.documentElement.scrollWidth"
    assert hands.run(wide) <= size[0]
    light = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    assert (max(hands.run(light)) < 60) == dark


def test_cancel_stops_at_once_and_leaves_nothing(hands, out, clip) -> None:
    hands.look(DESKTOP)
    hands.edit(copied(clip, "long.mp4"), "night", "0.5")
    hands.type("Steps", "1000")
    hands.wait("tab.querySelector('.dc-plan')?.textContent.includes('1000 steps')")
    hands.click("Edit")
    hands.wait("tab.querySelector('progress') && tab.innerText.includes('sampling')")
    assert "left" in hands.text(".dc-note")
    hands.click("Cancel")
    hands.wait("tab.innerText.includes('Stopped; nothing was written.')", seconds=20)
    (folder,) = out.glob("long-*")
    assert [one.name for one in folder.iterdir()] == ["long.mp4"]
    hands.type("Steps", "1")
    hands.click("Edit")
    hands.done()


def test_an_error_is_that_of_the_command_line(hands, tmp_path, capsys) -> None:
    wrong = tmp_path / "wrong.mp4"
    wrong.write_text("this is no video\n" * 99)
    assert main(["edit", str(wrong), "-e", "rain", "--model", "tiny"]) == 3
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    hands.look(PHONE)
    hands.drop(wrong)
    hands.choose("rain")
    said = hands.text(".dc-error")
    assert said.splitlines()[-1] == hint
    assert error.rpartition("wrong.mp4")[2] in said
    hands.click("Edit")
    hands.wait("tab.querySelectorAll('.dc-error').length === 2")


def test_keys_alone(hands, clip) -> None:
    hands.look(DESKTOP)
    hands.drop(copied(clip, "keys.mp4"))
    reached = []
    for _ in range(60):
        press(hands, Keys.TAB)
        reached.append(
            hands.run("document.activeElement.value || document.activeElement.innerText")
        )
        if reached[-1] == "fog":
            press(hands, Keys.SPACE)
        if reached[-1] == "Edit" and len(reached) > 20:
            break
    assert "fog" in reached, reached
    assert hands.run(
        "[...tab.querySelectorAll('input:checked')].some((one) => one.value === 'fog')"
    )
    hands.wait("tab.querySelector('.dc-plan')")
    press(hands, Keys.ENTER)
    hands.done()
    hands.tab("Story")
    hands.run("tab.querySelector('button.dc-tile').focus()")
    press(hands, Keys.ENTER)
    hands.wait("tab.querySelector('textarea').value.trim() === 'backlight'")


def test_two_tabs_keep_their_clips_apart(hands, driver, out, clip) -> None:
    first = driver.current_window_handle
    hands.look(DESKTOP)
    hands.edit(copied(clip, "same.mp4"), "snow", "0.5")
    driver.switch_to.new_window("tab")
    second = driver.current_window_handle
    hands.look(DESKTOP)
    hands.edit(copied(clip, "same.mp4"), "snow", "0.5")
    hands.click("Edit")
    driver.switch_to.window(first)
    hands.click("Edit")
    kept = []
    for window in (first, second):
        driver.switch_to.window(window)
        hands.done()
        kept.append(hands.text(".dc-done .dc-hint"))
    assert kept[0] != kept[1]
    assert len(list(out.glob("same-*/same.snow.mp4"))) == 2
    driver.close()
    driver.switch_to.window(first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_also_while_it_generates(driver, tmp_path, clip, number) -> None:
    with served(tmp_path) as (url, process):
        hands = Hands(driver, url)
        hands.look(DESKTOP)
        hands.edit(clip, "night", "0.5")
        hands.type("Steps", "1000")
        hands.wait("tab.querySelector('.dc-plan')?.textContent.includes('1000 steps')")
        hands.click("Edit")
        hands.wait("tab.querySelector('progress') && tab.innerText.includes('sampling')")
        process.send_signal(number)
        assert process.wait(30) == 0
    (folder,) = tmp_path.glob("input-*")
    assert [one.name for one in folder.iterdir()] == ["input.mp4"]
