"""Make a study from the results of an evaluation: DIR/page/ to hand out, DIR/key.json to keep."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from dcgrid.errors import OutputError, StudyError, UsageError
from dcgrid.eval.results import Results, read_results
from dcgrid.eval.study.design import (
    ANSWERS_DIR,
    KEY_NAME,
    MEDIA_DIR,
    PAGE_DIR,
    QUESTIONS,
    Check,
    Pair,
    StudyKey,
    write_key,
)
from dcgrid.eval.study.order import rater_seed
from dcgrid.eval.study.pairing import Blind, Pairing, make_pairs, methods_against
from dcgrid.io.atomic import whole_folder

RESULTS_NAME = "results.json"
DEFAULT_TITLE = "Which edit is better?"
PAIRS = 24
"""Pairs of a rater where none are asked for: about a quarter of an hour."""
CHECKS = 3
"""Attention checks where none are asked for."""
SECONDS_PER_PAIR = 40
"""How long a rater takes for a pair, as the page says."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """What a study is to be like."""

    ours: str
    """Key of the method in question."""
    against: tuple[str, ...] = ()
    """Keys of the others; none: all."""
    pairs: int = PAIRS
    """Pairs of a rater, at most; >= 1."""
    checks: int = CHECKS
    """Attention checks of a rater; >= 0."""
    seed: int = 0
    """What names, damage and decks are drawn with."""
    title: str = DEFAULT_TITLE
    """Head of the page."""
    contact: str = ""
    """Whom raters can ask, and hand their answers to."""
    outside: bool = False
    """Take videos, too, that the results name outside of their folder."""

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: Fewer than one pair, a negative number of checks, an empty title.
        """
        if self.pairs < 1:
            raise UsageError(f"--pairs {self.pairs}", hint="a rater sees one pair or more")
        if self.checks < 0:
            raise UsageError(f"--checks {self.checks}", hint="--checks 0 makes none")
        if not self.title.strip():
            raise UsageError("--title is empty", hint="leave it out for the usual one")


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeStudy:
    """What was made."""

    folder: Path
    """Where it is."""
    key: StudyKey
    """The study."""
    left_out: int
    """Pairs not made because one of the two videos is not there."""
    unlike: int
    """Pairs whose edits differ in size or length, which a rater can see."""


def make_study(
    results: Path, out: Path, config: StudyConfig, *, force: bool = False, on_video: Progress
) -> MadeStudy:
    """Make a study; it appears whole or not at all.

    Args:
        results: results.json of an evaluation, or its folder.
        out: The folder to make.
        config: What the study is to be like.
        force: Replace a study that has no answers yet.
        on_video: Called after each video with how many are written, and of how many.

    Raises:
        InputVideoError: The results or a video cannot be read.
        StudyError: There is nothing to compare.
        UsageError: An unknown method.
        OutputError: The folder exists or cannot be written.
    """
    path = results / RESULTS_NAME if results.is_dir() else results
    found = read_results(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    against = methods_against(found, config.ours, config.against)
    blind = Blind(f"{digest}:{config.seed}")
    pairing = make_pairs(found, config.ours, against, config.checks, blind)
    if not config.outside:
        _refuse_outside(path.parent, {*pairing.sources.values(), *pairing.damaged.values()})
    key = _key(found, pairing, config, against, digest)
    _check_place(out, force=force)
    with whole_folder(out) as part:
        media = part / PAGE_DIR / MEDIA_DIR
        media.mkdir(parents=True)
        shapes = _write_media(media, path.parent, pairing, blind, on_video)
        key = replace(key, id=_study_id(key, config, media))
        page = render_page(page_data(key, config.contact))
        (part / PAGE_DIR / "index.html").write_text(page, encoding="utf-8")
        write_key(part / KEY_NAME, key)
    unlike = sum(len({shapes[file] for file in pair.files}) > 1 for pair in key.pairs)
    return MadeStudy(folder=out, key=key, left_out=pairing.left_out, unlike=unlike)


def _key(
    results: Results, pairing: Pairing, config: StudyConfig, against: tuple[str, ...], digest: str
) -> StudyKey:
    labels = {method.key: method.label for method in results.methods}
    return StudyKey(
        id="",
        title=config.title,
        ours=config.ours,
        against=against,
        labels={name: labels[name] for name in (config.ours, *against)},
        seed=config.seed,
        per_rater=min(config.pairs, len(pairing.pairs)),
        results_sha256=digest,
        pairs=pairing.pairs,
        checks=pairing.checks,
    )


def _refuse_outside(folder: Path, sources: set[str]) -> None:
    """Refuse videos outside of the results' folder: what is copied is handed out to raters.

    Raises:
        StudyError: There is one, by an absolute path, by `..` or by a link.
    """
    for source in sorted(sources):
        real = (folder / source).resolve()
        if not real.is_relative_to(folder.resolve()):
            raise StudyError(
                f"the results name a video outside of {folder}: {source}",
                hint="--outside takes it all the same, and hands it out",
            )


def _write_media(
    media: Path, folder: Path, pairing: Pairing, blind: Blind, on_video: Progress
) -> dict[str, tuple[int, ...]]:
    """Write every video; return the shape of each (frames, height, width) by name.

    Videos that several names stand for are read and written once and then copied.
    """
    from dcgrid.eval.study.media import damage, read_shown, write_shown

    names_of: dict[str, list[str]] = {}
    for name, source in (pairing.sources | pairing.damaged).items():
        names_of.setdefault(source, []).append(name)
    shapes: dict[str, tuple[int, ...]] = {}
    total = len(pairing.sources) + len(pairing.damaged)
    for source, names in names_of.items():
        clip = read_shown(folder / source)
        first: Path | None = None
        for name in names:
            shapes[name] = tuple(clip.frames_THWC.shape[:3])
            if name in pairing.damaged:
                seed = rater_seed(blind.name("damage"), name)
                write_shown(media / name, replace(clip, frames_THWC=damage(clip.frames_THWC, seed)))
            elif first is None:
                first = media / name
                write_shown(first, clip)
            else:
                shutil.copy2(first, media / name)
            on_video(len(shapes), total)
    return shapes


def _study_id(key: StudyKey, config: StudyConfig, media: Path) -> str:
    """Return a hash over all that raters see."""
    digest = hashlib.sha256(repr(page_data(key, config.contact)).encode())
    for path in sorted(media.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _check_place(out: Path, *, force: bool) -> None:
    """Refuse a place before any work is done; what people answered is never deleted."""
    if not out.parent.is_dir():
        raise OutputError(
            f"the folder {out.parent} does not exist", hint=f"make it: `mkdir -p {out.parent}`"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / KEY_NAME).is_file():
        raise OutputError(f"{out} exists and is no study", hint="choose another folder with --out")
    answers = out / ANSWERS_DIR
    if answers.is_dir() and any(answers.iterdir()):
        raise OutputError(
            f"{answers} holds answers to the study that is there",
            hint="choose another folder with --out, or move the answers away",
        )
    if not force:
        raise OutputError(f"{out} exists already", hint="add --force to replace it")


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
