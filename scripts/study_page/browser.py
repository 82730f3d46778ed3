"""A headless Chromium, and a rater made of code who takes a study by keys or clicks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from scripts.chromium import chromium

DESKTOP, PHONE = (1280, 900), (390, 844)
QUESTIONS = ("ip", "mp", "ap", "op")
WAIT_S = 20

# Which of two files is chosen for a question.
Choose = Callable[[str, str, str], str]


@contextmanager
def browser(downloads: Path) -> Iterator[WebDriver]:
    """Open a browser that downloads into a folder; it ends with the block."""
    folder = {"download.default_directory": str(downloads.resolve())}
    with chromium("--hide-scrollbars", preferences=folder) as driver:
        yield driver


def look(driver: WebDriver, size: tuple[int, int], *, dark: bool = False) -> None:
    """Set the size of the window in CSS pixels, and what the page is told about colours."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def press(driver: WebDriver, *keys: str) -> None:
    """Press keys, one after another, wherever the focus is."""
    actions = ActionChains(driver)
    for key in keys:
        actions.send_keys(key)
    actions.perform()


def view(driver: WebDriver) -> str:
    """Return "intro", "trial" or "end"."""
    shown: str = driver.execute_script(
        "return ['intro', 'trial', 'end'].find((id) => !document.getElementById(id).hidden)"
    )
    return shown


def open_afresh(driver: WebDriver, url: str) -> None:
    """Open the page as someone who has never been there."""
    driver.get(url)
    # Only now: a page that is left keeps what it knows.
    driver.execute_script("try { localStorage.clear() } catch { /* forbidden */ }")
    driver.get(url)
    WebDriverWait(driver, WAIT_S).until(lambda one: view(one) == "intro")


def begin(driver: WebDriver, url: str, rater: str) -> None:
    """Open the page afresh, give a name and take part, by keys alone."""
    open_afresh(driver, url)
    press(driver, Keys.TAB)  # from the heading to the name, which is selected as a whole
    ActionChains(driver).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
    press(driver, *rater, Keys.TAB, Keys.SPACE, Keys.ENTER)
    WebDriverWait(driver, WAIT_S).until(lambda one: view(one) == "trial")


def shown_files(driver: WebDriver) -> tuple[str, str]:
    """Return the names of the files shown as A and B."""
    left, right = driver.execute_script(
        "return ['left', 'right'].map((place) => document.querySelector("
        "`video[data-place=${place}]`).getAttribute('src').split('/').pop())"
    )
    return left, right


def wait_for_videos(driver: WebDriver) -> None:
    """Wait until every video can be played, or has failed."""
    WebDriverWait(driver, WAIT_S).until(
        lambda one: one.execute_script(
            "return [...document.querySelectorAll('video')].every("
            "(video) => video.readyState >= 3 || video.error !== null)"
        )
    )


def answer_by_keys(driver: WebDriver, choose: Choose) -> None:
    """Answer a pair with A and B, and go on with Enter."""
    left, right = shown_files(driver)
    letters = ["a" if choose(left, right, question) == left else "b" for question in QUESTIONS]
    press(driver, *letters, Keys.ENTER)


def answer_by_clicks(driver: WebDriver, choose: Choose) -> None:
    """Answer a pair with the mouse, and go on with the button."""
    left, right = shown_files(driver)
    for question in QUESTIONS:
        side = "left" if choose(left, right, question) == left else "right"
        driver.find_element(By.ID, f"{question}-{side}").click()
    driver.find_element(By.ID, "next").click()


def take(
    driver: WebDriver,
    choose: Choose,
    answer: Callable[[WebDriver, Choose], None] = answer_by_keys,
) -> int:
    """Answer every pair that is left; return how many."""
    count = 0
    while view(driver) == "trial":
        answer(driver, choose)
        count += 1
    return count


def download(driver: WebDriver, folder: Path) -> Path:
    """Press the download button and return the file, once it is whole."""
    before = set(folder.glob("*.json"))
    driver.find_element(By.ID, "download").click()
    WebDriverWait(driver, WAIT_S).until(lambda _: set(folder.glob("*.json")) - before)
    (path,) = set(folder.glob("*.json")) - before
    return path
