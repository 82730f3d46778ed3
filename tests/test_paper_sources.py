"""What the code names as its source in the paper is a place that the paper has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "1", "2", "3", "3.1", "3.2", "3.3", "3.4", "4.1", "4.2", "4.3",
    "5.1", "5.2", "5.2.1", "5.2.2", "5.2.3", "5.3", "6", "7", "8", "9", "10", "11",
}  # fmt: skip
"""Those with text of their own; 4 and 5 are headings alone."""
TABLES, FIGURES = range(1, 7), range(1, 11)


@pytest.mark.parametrize("folder", ["src", "recipes", "benchmarks"])
def test_sections_tables_and_figures_that_are_cited_exist(folder: str) -> None:
    cited = 0
    for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.toml")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if not re.search(r"[Pp]aper|sec\. \d|section \d|claim=", line) or "shared/" in line:
                continue
            for named in re.findall(r"\b[Ss]ec(?:s?\.|tions?) (\d+(?:\.\d+)*)", line):
                assert named in SECTIONS, f"{path}: {line}"
                cited += 1
            for kind, number in re.findall(r"\b(Table|Fig\.) (\d+)", line):
                assert int(number) in (TABLES if kind == "Table" else FIGURES), f"{path}: {line}"
    assert cited > 5
