"""Hooks of mkdocs.yml: folders in the navigation, and links from docs/ to files beside it.

Pages under docs/ are read on GitHub, too, where `../examples/batch/job.yaml` is a file. The site
takes such files along below `source/` and turns the links there.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(\]\()([^)#:\s]+)")
_NAMED = re.compile(r"\[[\w/.-]+\.md\]\(([^)#:\s]+\.md)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder where the navigation names it."""
    config.nav = _unfolded(config.nav, Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along what pages link to outside of docs/, and what these link to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for target in _targets(page, (ROOT / page).read_text(encoding="utf-8")):
            if target in seen or target.startswith("docs/") or not (ROOT / target).is_file():
                continue
            seen.add(target)
            files.append(File.generated(config, _place(target), abs_src_path=str(ROOT / target)))
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:  # noqa: ANN401
    """Turn links that leave docs/ or stand beside it, and name pages by their titles."""
    uri = page.file.src_uri
    here = uri.removeprefix("source/") if uri.startswith("source/") else f"docs/{uri}"

    def named(match: re.Match[str]) -> str:
        target = ROOT / posixpath.dirname(here) / match[1]
        text = target.read_text(encoding="utf-8") if target.is_file() else ""
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        return f"[{title[1]}]({match[1]}" if title else match[0]

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[2]))
        place = posixpath.relpath(_place(target), posixpath.dirname(uri) or ".")
        return match[1] + place

    return _LINK.sub(turned, _NAMED.sub(named, markdown))


def on_page_content(html: str, **_: Any) -> str:  # noqa: ANN401
    """Load pictures when they come into view."""
    return html.replace("<img ", '<img loading="lazy" ')


def _targets(page: str, text: str) -> set[str]:
    folder = posixpath.dirname(page)
    return {posixpath.normpath(posixpath.join(folder, match[2])) for match in _LINK.finditer(text)}


def _place(target: str) -> str:
    """Return where a file of the repository stands in the site, from its top."""
    return target.removeprefix("docs/") if target.startswith("docs/") else f"source/{target}"


def _unfolded(entry: Any, docs: Path) -> Any:  # noqa: ANN401
    if isinstance(entry, list):
        found = []
        for one in entry:
            folder = isinstance(one, str) and one.endswith("/")
            found += _pages(one, docs) if folder else [_unfolded(one, docs)]
        return found
    if isinstance(entry, dict):
        return {title: _unfolded(value, docs) for title, value in entry.items()}
    return _pages(entry, docs) if entry.endswith("/") else entry


def _pages(folder: str, docs: Path) -> list[str]:
    return [folder + name for name in sorted(os.listdir(docs / folder)) if name.endswith(".md")]
