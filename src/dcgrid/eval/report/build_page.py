"""Put a page together: its source lies in page/, results go into it as JSON.

    index.html  @STYLE@ @SCRIPT@   <- style.css, the .js files in the order of their names
                @DATA@             <- results, marks and reasons, as the tables have them

Everything is in one file, so that it opens from a disk as from a server. A policy in its head names
the digests of its script and style: whatever a file name or an error text holds, no other script
runs, and nothing is asked for but media beside the page.
"""

import base64
import hashlib
import html
import json
import re
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from dcgrid.eval.columns import METRICS
from dcgrid.eval.results import Results
from dcgrid.eval.tables import REFERENCES, gaps, marks, remarks
from dcgrid.io.atomic import whole_file


def write_report(folder: Path, results: Results) -> Path:
    """Write report.html, whole or not at all, beside the media that the results name.

    Args:
        folder: Folder of the results; paths in them are relative to it. An older page is replaced.
        results: What to show.

    Returns:
        The page.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / "report.html"
    with whole_file(path) as part:
        part.write_text(report_page(results), encoding="utf-8", errors="replace", newline="\n")
    return path


def report_page(results: Results) -> str:
    """Return the page as text."""
    style = _source("style.css")
    script = "\n".join(_source(name) for name in script_names())
    parts = {
        "TITLE": html.escape(f"{results.title} - dcgrid eval"),
        "STYLE": style,
        "STYLE_HASH": _digest(style),
        "SCRIPT": script,
        "SCRIPT_HASH": _digest(script),
        "DATA": _json(results),
    }
    # In one pass, so that a marker within the results stays what it is.
    return re.sub(r"@([A-Z_]+)@", lambda found: parts[found[1]], _source("index.html"))


def script_names() -> list[str]:
    """Return the names of the page's scripts in the order in which they run."""
    page = files("dcgrid.eval.report") / "page"
    return sorted(one.name for one in page.iterdir() if one.name.endswith(".js"))


def player_script() -> str:
    """Return the script of the synchronised players (`Player`, `Transport`) for another page."""
    return _source("5-transport.js")


def _source(name: str) -> str:
    return (files("dcgrid.eval.report") / "page" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return what a policy calls a script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(results: Results) -> str:
    """Return the results as JSON that cannot end its element: no "<" stands in it."""
    page = {
        "results": asdict(results),
        "marks": marks(results),
        "gaps": gaps(results),
        "remarks": remarks(results),
        "bounds": {key: (one.least, one.most) for key, one in METRICS.items() if one.most},
        "references_title": REFERENCES,
    }
    text = json.dumps(page, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
