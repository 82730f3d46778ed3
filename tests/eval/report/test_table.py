"""The table of methods: what lies beyond its edge, blank columns, the unedited clip, axes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dcgrid.eval.columns import METRICS
from dcgrid.eval.report import write_report
from dcgrid.eval.results import MethodRow, MetricColumn, Results, Score, read_results
from dcgrid.eval.tables import remarks, table_rows
from tests.eval.report.browser import Browser

WIDE = ("id", "id_sface", "face_kept", "subject", "ct", "tc", "motion", "flicker", "change", "ssim")


def results_of(page: Path, folder: Path, value: float, *, blank: tuple[str, ...] = ()) -> Path:
    """Write a page of an unedited clip and a method, each with `value` in every metric."""
    given = read_results(page.with_name("results.json"))
    columns = tuple(
        MetricColumn(
            key=one.key, label=one.label, title=one.title, better=one.better, digits=one.digits
        )
        for one in (METRICS[key] for key in WIDE)
    )
    series = (value - 0.3, value - 0.1, value)
    score = Score(value=value, series=series, frames=(0, 1, 2))
    scores = {key: Score(value=None, reason="not here") if key in blank else score for key in WIDE}
    methods = (
        MethodRow(key="unedited", label="Unedited", is_reference=True),
        MethodRow(key="ours", label="Ours"),
    )
    kinds = {"ours": "ours", "sdedit": "unedited"}
    items = tuple(
        replace(one, method=kinds[one.method], scores=scores)
        for one in given.items
        if one.method in kinds and one.status == "done"
    )
    table = table_rows(items, columns, methods)
    results: Results = replace(
        given, metrics=columns, methods=methods, items=items, table=table, references=()
    )
    return write_report(folder, results)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "goes_on"), [(390, True), (1300, True), (1300, False)])
def test_a_table_that_scrolls_shows_that_it_does(
    browser: Browser, page: Path, tmp_path: Path, width: int, *, goes_on: bool
) -> None:
    made = results_of(page, tmp_path, 0.9, blank=() if goes_on else WIDE[2:])

    def hints() -> tuple[bool, str]:
        shown = browser.run("return document.querySelector('.scroll-hint').offsetHeight > 0")
        shade = "return getComputedStyle(document.querySelector('.scrolls'), '::after').opacity"
        return bool(shown), str(browser.run(shade))

    with browser.width(width):
        browser.open(made)
        browser.wait("getComputedStyle(document.body).margin !== ''")
        browser.run("return new Promise((done) => setTimeout(done, 100))")
        assert hints() == (goes_on, "1" if goes_on else "0")
        assert not browser.run("return document.documentElement.scrollWidth > innerWidth")
        if goes_on:
            browser.run("document.querySelector('.scroll').scrollLeft = 1e5")
            browser.wait("document.querySelector('.scrolls').classList.contains('more-left')")
            assert hints() == (True, "0"), "nothing more to the right, but to the left"


@pytest.mark.slow
def test_blank_columns_fold_away_and_say_why(browser: Browser, page: Path, tmp_path: Path) -> None:
    made = results_of(page, tmp_path, 0.9, blank=("id", "tc"))
    browser.open(made)
    heads = [text.split()[0] for text in browser.texts("#table thead th")]
    assert "TC" not in heads
    assert "ID" not in heads
    assert browser.find("#fold").text == "Show 2 blank columns: ID, TC"
    notes = browser.texts("#footnotes li")
    assert [note for note in notes if note.startswith(("ID:", "TC:"))]
    browser.click("#fold")
    heads = [text.split()[0] for text in browser.texts("#table thead th")]
    assert {"ID", "TC"} <= set(heads)
    assert browser.find("#fold").text == "Fold 2 blank columns: ID, TC"
    assert "blank=1" in browser.run("return location.hash")
    assert browser.texts("#footnotes li")[0].startswith("ID: not here")


@pytest.mark.slow
def test_a_table_without_blank_columns_offers_none(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    browser.open(results_of(page, tmp_path, 0.9))
    assert not browser.find("#fold").is_displayed()


@pytest.mark.slow
@pytest.mark.parametrize(("value", "asks"), [(0.9, True), (1.0, False)])
def test_an_unedited_row_that_is_not_1_says_why(
    browser: Browser, page: Path, tmp_path: Path, value: float, *, asks: bool
) -> None:
    browser.open(results_of(page, tmp_path, value))
    notes = [one for one in browser.texts("#footnotes li") if one.startswith("Unedited is")]
    assert len(notes) == (1 if asks else 0)
    marked = browser.run(
        "return document.querySelectorAll('#table tr[data-method=unedited] sup').length"
    )
    # Of ten metrics five compare with the source; those of the truth or of the text do not.
    assert marked == (5 if asks else 0)
    assert browser.run("return document.querySelectorAll('tr[data-method=ours] sup').length") == 0


def test_only_what_compares_with_the_source_is_remarked(page: Path, tmp_path: Path) -> None:
    made = results_of(page, tmp_path, 0.9)
    text = made.read_text(encoding="utf-8")
    found = re.search(r'"remarks":(\{.*?\}\})', text)
    assert found is not None
    assert set(re.findall(r'"(\w+)":\{"unedited"', found[1])) == {
        "id",
        "id_sface",
        "face_kept",
        "subject",
        "motion",
    }
    assert remarks(read_results(page.with_name("results.json"))) == {}


@pytest.mark.slow
def test_axes_end_where_values_do(browser: Browser, page: Path, tmp_path: Path) -> None:
    """A share goes from 0 to 1, a cosine no further than 1; flicker has no end."""
    browser.open(results_of(page, tmp_path, 1.0), "view=videos")
    browser.wait("document.querySelectorAll('.plot').length")

    def ticks(metric: str) -> list[float]:
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        found = browser.run(script, f".plot[data-metric={metric}] text.tick[text-anchor=end]")
        return [float(one) for one in found if not one.startswith("frame")]

    assert ticks("motion") == [0, 0.5, 1]
    assert ticks("face_kept") == [0, 0.5, 1]
    for key in ("id", "subject", "tc", "ssim"):
        assert max(ticks(key)) == 1
        assert min(ticks(key)) > 0.5
    assert len(ticks("flicker")) == 3
