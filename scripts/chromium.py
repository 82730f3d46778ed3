"""A headless Chromium that looks at pages of ours: for pictures in docs, and for tests.

Needs selenium, Chromium and its driver (Debian: chromium chromium-driver).
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
"""Flag under which no name is found, so that a page that asks for the network cannot pass."""
# Without those about the network Chromium calls home at every start.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@contextmanager
def chromium(
    *flags: str, logs: Sequence[str] = ("browser",), preferences: Mapping[str, str] | None = None
) -> Iterator["WebDriver"]:
    """Open a browser with a profile of its own; it ends with the block.

    Args:
        flags: More flags.
        logs: Logs that are kept.
        preferences: Of the profile.
    """
    # A development tool, so it is imported only where a browser is wanted.
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.add_experimental_option("prefs", dict(preferences or {}))
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        try:
            yield driver
        finally:
            driver.quit()
