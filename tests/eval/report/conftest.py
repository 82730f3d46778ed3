"""One browser for all tests of the page, and one folder of results."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcgrid.eval.report import write_report
from dcgrid.eval.results import write_results
from tests.eval.report import browser as chromium
from tests.eval.report.folder import make_results


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report beside its videos."""
    folder = tmp_path_factory.mktemp("run # 1 %")
    results = make_results(folder)
    write_results(folder / "results.json", results)
    return write_report(folder, results)


@pytest.fixture(scope="module")
def shared_browser() -> Iterator[chromium.Browser]:
    with chromium.started() as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: chromium.Browser) -> Iterator[chromium.Browser]:
    """The browser; a test fails if the page wrote to the console or asked for more than files."""
    # Away from Chromium's own first page, which asks for pictures of its own.
    shared_browser.driver.get("about:blank")
    shared_browser.emulate()
    shared_browser.errors()
    shared_browser.requests()
    yield shared_browser
    allowed = ("file:", "data:", "about:")
    assert [url for url in shared_browser.requests() if not url.startswith(allowed)] == []
    # A video that is not there is part of the tests, and the browser itself reports it.
    lost = [one for one in shared_browser.errors() if "ERR_FILE_NOT_FOUND" not in one]
    assert lost == []
    shared_browser.driver.get("about:blank")
