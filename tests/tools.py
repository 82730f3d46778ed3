"""Commands outside of Python that tests check against, and the skipped tests by their reason.

`make test` installs the commands where it can and passes --require-tools, under which a test that
is skipped for want of one fails the run: an oracle that is skipped checks nothing.
"""

import shutil
from collections import Counter

import pytest

from scripts.chromium import CHROMIUM, DRIVER

BROWSER = (str(CHROMIUM), str(DRIVER))
MISSING = "missing tool: "


def missing(*tools: str) -> str:
    """Return why a test that needs these commands is skipped; empty: all of them are there."""
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    return MISSING + ", ".join(lacking) if lacking else ""


def needs(*tools: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test where one of these commands is missing."""
    reason = missing(*tools)
    return pytest.mark.skipif(bool(reason), reason=reason)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-tools",
        action="store_true",
        help="fail if a test is skipped because a command, such as ffmpeg, is missing",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (
        session.config.getoption("--require-tools")
        and any(reason.startswith(MISSING) for reason in _reasons(session.config))
        and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts = _reasons(config)
    if not counts:
        return
    terminalreporter.section(f"{counts.total()} skipped, by reason")
    for reason, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        terminalreporter.write_line(f"{count:5}  {reason}")
    if config.getoption("--require-tools") and any(one.startswith(MISSING) for one in counts):
        terminalreporter.write_line("Failed: these tools are required (--require-tools).", red=True)


def _reasons(config: pytest.Config) -> Counter[str]:
    """Count the skipped tests and modules by their reason."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter is not None else []
    # A skip's longrepr is (file, line, reason); an expected failure has another and no reason here.
    found = [one.longrepr[2] for one in reports if isinstance(one.longrepr, tuple)]
    return Counter(reason.removeprefix("Skipped: ") for reason in found)
