"""The site of docs/: it builds strictly, loads nothing from elsewhere, and search finds things."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dcgrid.recipes import effect_names
from scripts.chromium import NO_NETWORK, chromium
from scripts.sheets.gallery import PREVIEWS, gallery_pages
from tests.tools import BROWSER, needs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MOST_BYTES = 6_000_000


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    words = ["-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(site)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=quiet, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_effect_has_its_page_and_a_picture_that_plays() -> None:
    pages = gallery_pages()
    assert {Path(path).stem for path in pages} == {"effects", *effect_names()}
    for path, text in pages.items():
        assert (DOCS / path).read_text(encoding="utf-8") == text, "run: make docs"
    pictures = {path.stem: path for path in (DOCS / PREVIEWS).glob("*.webp")}
    assert set(pictures) == set(effect_names())
    for path in pictures.values():
        with Image.open(path) as picture:
            assert picture.width == 640, path
            assert picture.n_frames >= 12, path
    assert sum(path.stat().st_size for path in pictures.values()) <= MOST_BYTES


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert {f"{name}.html" for name in effect_names()} <= {page.name for page in pages}
    loads = re.compile(r"<(?:script|img|link|source|video)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//")
    for page in pages:
        assert not loads.search(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text("utf-8")), sheet


def test_files_outside_of_docs_come_along(site: Path) -> None:
    page = (site / "batch.html").read_text(encoding="utf-8")
    assert 'href="source/examples/batch/job.yaml"' in page
    assert (site / "source/examples/batch/job.yaml").read_bytes() == (
        ROOT / "examples/batch/job.yaml"
    ).read_bytes()
    assert 'href="../api.html"' in (site / "source/CONTRIBUTING.html").read_text(encoding="utf-8")


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs mkdocs-material")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n[gone](gone.md)\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: []\nnav: [index.md]\n"
    )
    done = build(config, tmp_path / "site")
    assert done.returncode != 0
    assert "gone.md" in done.stderr


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@needs(*BROWSER)
def test_search_finds_rain_and_a_phone_needs_no_sideways_scrolling(address: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium(f"{NO_NETWORK}, EXCLUDE 127.0.0.1") as driver:
        driver.get(address)
        driver.execute_script("document.getElementById('__search').click()")
        driver.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("rain")
        found = "a.md-search-result__link[href*='effects/rain.html']"
        WebDriverWait(driver, 60).until(lambda one: one.find_elements(By.CSS_SELECTOR, found))
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        for page in ("index.html", "effects.html", "effects/rain.html", "install.html"):
            driver.get(address + page)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 390, page
        assert not [one for one in driver.get_log("browser") if one["level"] == "SEVERE"]
