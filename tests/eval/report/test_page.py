"""The page's table, list, links, colours and widths in a real browser, its text without one."""

import base64
import hashlib
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcgrid.errors import OutputError
from dcgrid.eval.report import write_report
from dcgrid.eval.report.build_page import script_names
from dcgrid.eval.results import read_results
from tests.eval.report.browser import Browser
from tests.eval.report.folder import ATTACK
from tests.tools import missing

SOURCE = Path(__file__).parents[3] / "src/dcgrid/eval/report/page"
COLUMN = "#list tbody td:nth-child({})"


def test_the_page_is_one_file_that_holds_its_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    found = json.loads(data[1])["results"]
    assert found["title"] == f"Test {ATTACK} @DATA@"
    assert len(found["items"]) == 12
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_the_page_is_replaced_whole_and_errors_leave_nothing(page: Path, tmp_path: Path) -> None:
    results = read_results(page.with_name("results.json"))
    assert write_report(tmp_path, results) == tmp_path / "report.html"
    first = (tmp_path / "report.html").read_bytes()
    write_report(tmp_path, results)
    assert (tmp_path / "report.html").read_bytes() == first
    with pytest.raises(OutputError, match="cannot write ") as caught:
        write_report(tmp_path / "no-folder", results)
    assert caught.value.exit_code == 3
    assert "mkdir -p" in caught.value.hint
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", [path.name for path in sorted(SOURCE.glob("*.js"))])
def test_scripts_are_sound_and_never_read_data_as_code(name: str) -> None:
    text = (SOURCE / name).read_text(encoding="utf-8")
    assert name in script_names()
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "eval(",
        "Function(",
        "fetch(",
        "http:",
    ):
        assert word not in text.replace("http://www.w3.org/2000/svg", ""), word
    if reason := missing("node"):
        pytest.skip(reason)
    subprocess.run(["node", "--check", str(SOURCE / name)], check=True, capture_output=True)


def test_the_policy_names_the_script_that_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    script = text.split('<script type="module">')[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert text.count("'sha256-") == 2
    assert "unsafe" not in text


@pytest.mark.slow
def test_summary_marks_reasons_and_published_rows(browser: Browser, page: Path) -> None:
    browser.open(page)
    rows = browser.texts("#table tbody:not(.references) tr")
    assert [row.split("\t")[0] for row in rows] == ["Ours", "SDEdit", "FlowEdit"]
    assert browser.texts("#table b.mean") == ["0.5800", "0.420"]
    assert browser.texts("#table u.mean")[0] == "0.5050"
    notes = browser.texts("#footnotes li")
    assert "LPIPS: its weights are not here" in notes
    assert "video failed (2 of 4); no face in 12 of 12 frames (1 of 4)" in notes
    published = browser.texts("#table .references tr")
    assert "other data and other models" in published[0]
    assert "0.5542" in published[1]
    assert browser.texts("#counts .count") == ["8 done", "2 failed", "2 missing"]
    assert browser.find("h1").text == f"Test {ATTACK} @DATA@"
    assert browser.run("return window.hacked") is None


@pytest.mark.slow
def test_summary_sorts_by_click_and_key(browser: Browser, page: Path) -> None:
    browser.open(page)

    def order() -> list[str]:
        return [text.split("\t")[0] for text in browser.texts("#table tbody:first-of-type tr")]

    def sort_of(column: int) -> str:
        return str(browser.find(f"#table th:nth-child({column})").get_attribute("aria-sort"))

    browser.click("#table th:nth-child(2) button")
    assert order() == ["Ours", "FlowEdit", "SDEdit"]
    assert sort_of(2) == "descending"
    browser.find("#table th:nth-child(2) button").send_keys("\ue007")  # Enter
    assert order() == ["SDEdit", "FlowEdit", "Ours"]
    assert sort_of(2) == "ascending"
    # Lower is better there, so the lowest comes first.
    browser.find("#table th:nth-child(3) button").send_keys(" ")
    assert order() == ["Ours", "FlowEdit", "SDEdit"]
    assert (sort_of(2), sort_of(3)) == ("none", "ascending")
    assert browser.run("return document.activeElement.textContent").startswith("Flicker")


@pytest.mark.slow
def test_items_are_sorted_worst_first(browser: Browser, page: Path) -> None:
    browser.open(page, "view=items")
    browser.click("#list th:nth-child(5) button")
    best = [text for text in browser.texts(COLUMN.format(5)) if text[:1].isdigit()]
    assert best == sorted(best, reverse=True)
    browser.click("#f-worst")
    column = browser.texts(COLUMN.format(5))
    worst = [text for text in column if text[:1].isdigit()]
    assert worst == sorted(worst)
    # What has no score stands last in both directions.
    assert not any(text[:1].isdigit() for text in column[len(worst) :])
    assert len(column) == 12
    assert browser.find("#list th:nth-child(5)").get_attribute("aria-sort") == "ascending"


@pytest.mark.slow
def test_items_are_filtered_and_say_what_went_wrong(browser: Browser, page: Path) -> None:
    browser.open(page, "view=items")
    assert browser.texts("#found") == ["12 of 12 items"]
    browser.find("#f-text").send_keys("NO FACE")
    assert browser.texts("#found") == ["1 of 12 items"]
    assert "no face in 12 of 12 frames" in browser.texts(COLUMN.format(5))[0]
    browser.click("#f-reset")
    browser.run(
        "const pick = document.getElementById('f-status');"
        "pick.value = 'failed'; pick.dispatchEvent(new Event('change'));"
    )
    assert browser.texts("#found") == ["2 of 12 items"]
    assert all(f"out of memory {ATTACK}" in text for text in browser.texts(COLUMN.format(4)))
    browser.find("#f-text").send_keys("nothing has this")
    assert browser.texts("#list tbody tr") == []
    assert browser.run("return window.hacked") is None


@pytest.mark.slow
def test_a_row_links_to_its_videos_and_back_works(browser: Browser, page: Path) -> None:
    browser.open(page, "view=items&q=night&fmethod=ours")
    browser.click("#list tbody tr:nth-child(2) a")
    browser.wait("!document.getElementById('videos').hidden")
    assert browser.run("return document.getElementById('pick-clip').selectedIndex") == 1
    assert browser.run("return document.getElementById('pick-task').selectedIndex") == 1
    browser.driver.back()
    browser.wait("!document.getElementById('items').hidden")
    assert browser.find("#f-text").get_attribute("value") == "night"
    assert browser.texts("#found") == ["2 of 12 items"]
    browser.driver.forward()
    browser.wait("!document.getElementById('videos').hidden")


def settings(browser: Browser) -> dict[str, Any]:
    """Return what a reader sees of the state."""
    found: dict[str, Any] = browser.run(
        "const value = (id) => document.getElementById(id).value;"
        "return {frame: value('scrub'), clip: value('pick-clip'), task: value('pick-task'),"
        " speed: value('speed'), loop: document.getElementById('loop').checked,"
        " shown: [...document.querySelectorAll('#shown input')].map((one) => one.checked),"
        " cells: [...document.querySelectorAll('#cells .cell')].map((one) => one.dataset.cell),"
        " left: value('pick-left'), right: value('pick-right'),"
        " wipe: document.getElementById('divider').getAttribute('aria-valuenow')}"
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("compare", [False, True])
def test_a_copied_link_shows_the_same(browser: Browser, page: Path, compare: bool) -> None:
    browser.open(page, "view=videos&frame=0")
    browser.run(
        "const set = (id, index) => { const pick = document.getElementById(id);"
        " pick.selectedIndex = index; pick.dispatchEvent(new Event('change')); };"
        "set('pick-clip', 1); set('speed', 1);"
    )
    browser.press("l", " ")
    browser.wait("Number(document.getElementById('scrub').value) >= 1")
    browser.press(" ")
    browser.run("document.querySelectorAll('#shown input')[2].click()")
    browser.press(".", ".", ".")
    if compare:
        browser.press("w")
        browser.find("#divider").send_keys("\ue014")
    browser.wait("location.hash.includes('frame=')")
    browser.wait("location.hash.includes('frame=' + document.getElementById('scrub').value)")
    hash_, before = browser.run("return location.hash.slice(1)"), settings(browser)
    assert before["loop"] is False
    assert before["shown"].count(False) == 1
    browser.open(page, hash_)
    browser.wait(f"document.getElementById('scrub').value === '{before['frame']}'")
    assert settings(browser) == before
    assert browser.run("return location.hash.slice(1)") == hash_


@pytest.mark.slow
@pytest.mark.parametrize(
    "hash_",
    [
        "view=nowhere&clip=gone&task=gone&seed=x&frame=-3&speed=99&wipe=x",
        "%%%&view=videos&clip=%3Cscript%3E&frame=1e99&left=gone&right=gone&show=gone",
    ],
)
def test_a_link_of_another_report_opens(browser: Browser, page: Path, hash_: str) -> None:
    browser.open(page, hash_)
    browser.wait("document.querySelectorAll('main > section:not([hidden])').length === 1")
    browser.press("2")
    assert len(browser.texts("#shown .chip")) == 5
    assert browser.run("return document.querySelectorAll('#videos video').length") > 0
    browser.press("1")
    assert len(browser.texts("#table tbody tr")) == 5


CONTRAST = """
const channels = (text) => {
  const parts = text.match(/[\\d.]+/g).map(Number);
  const unit = text.startsWith('color(') ? 255 : 1;
  return [...parts.slice(0, 3).map((part) => part * unit), parts[3] ?? 1];
};
const behind = (one) => {
  const layers = [];
  for (let at = one; at; at = at.parentElement)
    layers.push(channels(getComputedStyle(at).backgroundColor));
  let ground = [255, 255, 255];
  for (const [r, g, b, alpha] of layers.reverse())
    ground = [r, g, b].map((part, i) => part * alpha + ground[i] * (1 - alpha));
  return ground;
};
const light = (rgb) => rgb.map((part) => part / 255)
  .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
const bad = [];
let seen = 0;
for (const one of document.querySelectorAll('body *')) {
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const left = one.closest('.hidden-label, script, option, .tag');
  if (!own || left || !one.getClientRects().length) continue;
  const style = getComputedStyle(one);
  const ink = channels(one.closest('svg') ? style.fill : style.color).slice(0, 3);
  const [a, b] = [light(ink), light(behind(one))].sort((x, y) => y - x);
  seen += 1;
  const contrast = (a + 0.05) / (b + 0.05);
  if (contrast < 4.5) bad.push(`${one.textContent.slice(0, 40)} ${contrast}`);
}
return [seen, bad];
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["summary", "videos", "items"])
def test_text_can_be_read_in_both_schemes(
    browser: Browser, page: Path, scheme: str, view: str
) -> None:
    browser.emulate(scheme=scheme)
    browser.open(page, f"view={view}&frame=1")
    seen, bad = browser.run(CONTRAST)
    assert seen > 20
    assert bad == []
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) < 128) == (scheme == "dark")


@pytest.mark.slow
def test_the_chosen_scheme_is_remembered(browser: Browser, page: Path) -> None:
    def dark() -> bool:
        ground = browser.run("return getComputedStyle(document.body).backgroundColor")
        return int(re.findall(r"\d+", ground)[0]) < 128

    browser.open(page)
    assert not dark()
    browser.press("t", "t")
    assert dark()
    assert browser.find("#theme").get_attribute("aria-label") == "Colours: dark"
    browser.open(page)
    assert dark()
    browser.press("t")
    assert not dark()


@pytest.mark.slow
@pytest.mark.parametrize("view", ["summary", "videos", "items"])
def test_a_phone_needs_no_sideways_scroll(browser: Browser, page: Path, view: str) -> None:
    with browser.width(360):
        browser.open(page, f"view={view}&frame=1")
        wide, width = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= width == 360


@pytest.mark.slow
def test_everything_has_a_name_and_help_opens(browser: Browser, page: Path) -> None:
    browser.open(page, "view=videos&frame=1")
    nameless = browser.run(
        "return [...document.querySelectorAll('button, select, input, video, [role=slider]')]"
        ".filter((one) => !(one.getAttribute('aria-label') || one.innerText?.trim()"
        " || [...(one.labels ?? [])].some((label) => label.textContent.trim())))"
        ".map((one) => one.id || one.tagName)"
    )
    assert nameless == []
    browser.press("?")
    assert browser.run("return document.getElementById('help').open")
    browser.find("#help button").send_keys("\ue007")
    assert not browser.run("return document.getElementById('help').open")
    # The Tab key reaches the first control, and it can be seen where it is.
    browser.press("\ue004")
    style = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(style) == "solid"


@pytest.mark.slow
def test_many_items_stay_usable(browser: Browser, page: Path, tmp_path: Path) -> None:
    results = read_results(page.with_name("results.json"))
    many = tuple(
        replace(item, key=f"{item.key}{seed}", seed=seed)
        for seed in range(100)
        for item in results.items
    )
    browser.open(write_report(tmp_path, replace(results, items=many)), "view=items")
    assert browser.texts("#found") == ["1200 of 1200 items"]
    assert browser.run("return document.querySelectorAll('#list tbody tr').length") == 200
    took = browser.run(
        "const from = performance.now();"
        "document.querySelector('#list th:nth-child(6) button').click();"
        "document.body.offsetHeight; return performance.now() - from"
    )
    assert took < 1500  # a few ten milliseconds on an idle machine
    browser.click("#more")
    assert browser.run("return document.querySelectorAll('#list tbody tr').length") == 400
