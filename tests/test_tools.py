"""Skipped tests are counted by reason, and missing tools fail a run that requires them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTENT = """
import pytest
from tests.tools import needs

@needs("no-such-tool", "sh")
def test_one():
    raise AssertionError

@needs("no-such-tool", "sh")
def test_two():
    raise AssertionError

@needs("sh")
def test_three():
    pass

@pytest.mark.xfail
def test_four():
    raise AssertionError
"""


def run(folder: Path, content: str, *options: str) -> subprocess.CompletedProcess[str]:
    path = folder / "test_it.py"
    path.write_text(content)
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.tools", *options, "."]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "src", *filter(None, sys.path))))
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("--require-tools",), ("--require-tools", "-n", "2")])
def test_a_missing_tool_fails_the_run_only_if_it_is_required(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    if "-n" in options:
        pytest.importorskip("xdist", reason="needs pytest-xdist")
    done = run(tmp_path, CONTENT, *options)
    assert done.returncode == ("--require-tools" in options), done.stdout + done.stderr
    assert "2 skipped, by reason" in done.stdout
    assert "    2  missing tool: no-such-tool\n" in done.stdout
    assert ("(--require-tools)" in done.stdout) == ("--require-tools" in options)


def test_other_reasons_do_not_fail_it(tmp_path: Path) -> None:
    content = "import pytest\n\npytest.skip('no GPU', allow_module_level=True)\n"
    done = run(tmp_path, content + "def test_it(): ...\n", "--require-tools")
    assert done.returncode in (0, 5), done.stdout + done.stderr
    assert "    1  no GPU\n" in done.stdout
