"""Words that only this project would know do not come back: readers search for the field's."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRIVATE = {
    r"(?<!in)paint": "generate",
    r"(?<![a-z])panes?(?![a-z])": "variant",
    r"carry_out": "run",
    r"pupil": "student",
    r"(?<![a-z])desk(?![a-z])": "study",
    r"shelf": "registry",
    r"(?<![a-z])judged?(?![a-z])": "scorer, scored",
}
"""Patterns in names and prose, case aside, and what takes their place."""
FILES = sorted(
    path
    for pattern in ("src/**/*.py", "benchmarks/**/*.py", "scripts/**/*.py")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("pattern", PRIVATE)
def test_private_words_stay_away(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line, re.IGNORECASE)
    ]
    assert not found, f"say {PRIVATE[pattern]} instead:\n" + "\n".join(found)
