"""The page of a study: one HTML file with its style, its program and its pairs inside.

Its parts stand in page/. What it is given says which files are a pair, not who made them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from importlib import resources
from typing import Any

from dcgrid.eval.study.design import QUESTIONS, Check, Pair, StudyKey

_SCRIPTS = ("order.js", "store.js", "player.js", "session.js", "send.js", "app.js")


def page_data(key: StudyKey, contact: str) -> dict[str, Any]:
    """Return what the page is given.

    Args:
        key: The study; its id may be empty still.
        contact: Whom to ask, and to hand answers to; may be empty.
    """
    return {
        "format": "dcgrid-study-page-1",
        "id": key.id,
        "title": key.title,
        "contact": contact,
        "per_rater": key.per_rater,
        "questions": [{"key": one.key, "topic": one.topic, "text": one.text} for one in QUESTIONS],
        "pairs": [{**_shown(pair), "deck": pair.deck} for pair in key.pairs],
        "checks": [_shown(check) for check in key.checks],
    }


def render_page(data: Mapping[str, Any]) -> str:
    """Return the page as HTML."""
    parts = {
        "title": escape(data["title"]),
        "style": _part("page.css"),
        "script": "\n".join(map(_part, _SCRIPTS)),
        "data": _as_script(data),
    }
    # In one pass: a mark in a title or a prompt stays text.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _part("index.html"))


def _shown(pair: Pair | Check) -> dict[str, Any]:
    values = asdict(pair)
    return {name: values[name] for name in ("id", "prompt", "originals", "files")}


def _as_script(data: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the element it stands in, whatever a prompt says."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return resources.files("dcgrid.eval.study").joinpath("page", name).read_text("utf-8")
