"""What the page does, without Gradio: forms become jobs, jobs become words and players.

Clips that are dropped lie in folders of their own, and results beside their clip, as the command
line has it, so that `dcgrid rerun` works on them:

    OUT/bunny-1f3a9c02/bunny.mp4  bunny.rain.mp4  bunny.rain.png  bunny.rain.json
"""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from dcgrid import hub
from dcgrid.api import PlannedJob, Result, Session
from dcgrid.errors import UsageError
from dcgrid.io.atomic import whole_file
from dcgrid.io.progress import counted, duration_words
from dcgrid.pipelines.elements import ELEMENT_CLIPS
from dcgrid.pipelines.job import GridJob
from dcgrid.recipes import list_effects
from dcgrid.ui.runs import Run, StoppedError

Explain: TypeAlias = Callable[[BaseException], tuple[str, str]]
"""Returns message and hint of an exception, as the command line says them."""
_FIRST = {"edit": "input", "compose": "first", "story": "source"}
"""Field of each command's own clip."""
_WHAT = ("effects", "prompt", "tile", "second", "concept", "scenes")
"""Fields that say what is to become of it."""
_ZERO_IS_NONE = ("duration", "num_inference_steps")
"""Fields that Gradio cannot leave empty: they show 0 for what the options leave out."""
_PATIENCE_S = 10.0
"""How long the end of the program waits for a run to clean up."""


class Media:
    """Files that the page may show, each under a name that nobody can guess."""

    def __init__(self) -> None:
        self._names: dict[Path, str] = {}
        self._paths: dict[str, Path] = {}

    def link(self, path: Path) -> str:
        """Return the address of a file, the same for the same file."""
        path = path.absolute()
        if path not in self._names:
            name = secrets.token_urlsafe(16)
            self._names[path], self._paths[name] = name, path
        return f"/media/{self._names[path]}/{quote(path.name)}"

    def find(self, name: str) -> Path | None:
        """Return the file behind an address; None: there is none, or it is gone."""
        path = self._paths.get(name)
        return path if path is not None and path.is_file() else None


class Page:
    """What all tabs of the page share, and what each is doing.

    Args:
        session: Generates.
        out: Folder of clips and results; made when the first clip comes.
        explain: See `Explain`.
    """

    def __init__(self, session: Session, out: Path, explain: Explain) -> None:
        self.media = Media()
        self._session, self._out, self._explain = session, out, explain
        self._turn = threading.Lock()
        self._runs: dict[str, Run] = {}

    def effect_tiles(self) -> list[dict[str, str]]:
        """Return name, title and preview of every effect, the user's own included.

        Raises:
            RecipeError: A recipe of the user's is wrong.
        """
        previews = Path(str(files("dcgrid.ui"))) / "page" / "previews"
        recipes = list_effects(hub.config_dir() / "recipes")
        return [self._tile(one.name, one.title, previews / f"{one.name}.mp4") for one in recipes]

    def concept_tiles(self) -> list[dict[str, str]]:
        """Return name, title and clip of every element that comes with the program."""
        clips = ELEMENT_CLIPS.values()
        return [self._tile(one.name, one.name.capitalize(), one.path) for one in clips]

    def _tile(self, name: str, title: str, preview: Path) -> dict[str, str]:
        link = self.media.link(preview) if preview.is_file() else ""
        return {"name": name, "title": title, "link": link}

    def job(self, command: str, form: Mapping[str, Any]) -> GridJob:
        """Return the job that a form asks for; fields that are empty are left out.

        Args:
            command: edit, compose or story.
            form: Fields by the name of the option.

        Raises:
            DcgridError: A field is missing or wrong.
        """
        values = {name: value for name, value in form.items() if value not in (None, "", [])}
        for name in _ZERO_IS_NONE:
            if values.get(name) == 0:
                del values[name]
        if command != "story" and _FIRST[command] not in values:
            raise UsageError("there is no clip yet", hint="drop one at the top of the page")
        for name in (*_FIRST.values(), "second"):
            if name in values:
                values[name] = self._keep_clip(Path(values[name]))
        if command == "compose":
            tile = values.pop("tile", [])
            if tile and "second" not in values:
                values["concept"] = tile[0]
            if "prompt" in values:
                values["prompts"] = [values.pop("prompt")]
        if command == "story":
            lines = str(values.pop("scenes", "")).splitlines()
            values["scenes"] = [one.strip() for one in lines if one.strip()]
            if not values["scenes"]:
                raise UsageError("no scene is given", hint="choose one, or write one a line")
            if "source" not in values:
                values["out"] = self._out
        return self._session.job(command, values, "this page")

    def _keep_clip(self, upload: Path) -> Path:
        """Copy a clip that was dropped to its place; the same clip again has the same place."""
        # Gradio's folder of an upload is named by a hash of what is in it.
        path = self._out / f"{upload.stem[:60]}-{upload.parent.name[:8]}" / upload.name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                shutil.copyfile(upload, part)
        return path

    def plan(self, command: str, form: Mapping[str, Any]) -> str:
        """Return what a form would do, or why it cannot be done, as HTML.

        A form that is not filled in yet does nothing, which is no mistake.
        """
        if not form.get(_FIRST[command]) or not any(form.get(name) for name in _WHAT):
            return ""
        try:
            lines = self._session.plan(self.job(command, form)).plan.lines()
        except Exception as error:
            return self.error(error)
        brief = [one for one in lines if one.startswith(("Result:", "Time:"))]
        head = "".join(f"<p>{escape(one)}</p>" for one in brief)
        return f"<div class='dc-plan'>{head}{_details('The whole plan', lines)}</div>"

    def start(self, tab: str, command: str, form: Mapping[str, Any]) -> Run:
        """Start what a form asks for in place of what its tab is doing.

        Raises:
            DcgridError: A field is missing or wrong.
        """
        job = self.job(command, form)
        self.stop(tab)
        self._runs[tab] = Run(self._session, job, self._turn)
        return self._runs[tab]

    def stop(self, tab: str) -> None:
        """Stop what a tab is doing."""
        if run := self._runs.pop(tab, None):
            run.stop()

    def stop_all(self) -> None:
        """Stop all and wait until what was half written is gone."""
        runs = list(self._runs.values())
        for run in runs:
            run.stop()
        for run in runs:
            run.join(_PATIENCE_S)

    def status(self, run: Run) -> str:
        """Return how far a run is, or how it ended, as HTML."""
        if run.is_alive:
            return _progress(run)
        if run.error is not None:
            return self.error(run.error)
        assert run.result is not None
        return self._result(run.result)

    def error(self, error: BaseException) -> str:
        """Return an error as the command line says it, as HTML."""
        if isinstance(error, StoppedError):
            return "<p class='dc-note' role='status'>Stopped; nothing was written.</p>"
        message, hint = self._explain(error)
        more = f"<p class='dc-hint'>hint: {escape(hint)}</p>" if hint else ""
        text = escape(message).replace("\n", "<br>")
        return f"<div class='dc-error' role='alert'><p>error: {text}</p>{more}</div>"

    def _result(self, result: Result) -> str:
        folder = result.manifest_path.absolute().parent
        head = "Already there, with the same settings." if result.already_there else "Done."
        links = "".join(
            f"<li><a href='{escape(self.media.link(path))}' download>{escape(path.name)}</a></li>"
            for path in result.files
        )
        notes = _details(counted(len(result.notes), "note"), result.notes) if result.notes else ""
        return (
            f"<div class='dc-done'><p role='status'>{head} Download:</p><ul>{links}</ul>"
            f"<p class='dc-hint'>All of it is kept in {escape(str(folder))}</p>{notes}</div>"
        )

    def player(self, planned: PlannedJob, result: Result) -> dict[str, Any]:
        """Return what the player shows: the inputs' part that was used, then what was made."""
        plan = planned.plan
        names = ["Before"] if len(plan.clips) == 1 else ["A", "B"]
        cells = [
            {
                "label": name,
                "link": self.media.link(path),
                "begin": clip.start_s or 0.0,
                "seconds": clip.duration_s,
            }
            for name, path, clip in zip(names, plan.job.inputs, plan.clips, strict=False)
        ]
        shown = {one.path: one.edit for one in result.videos}
        reels = [path for path in result.files if path.suffix == ".mp4" and path not in shown]
        shown.update(dict.fromkeys(reels, "all scenes"))
        cells += [{"label": name, "link": self.media.link(path)} for path, name in shown.items()]
        return {"fps": plan.result["fps"], "frames": plan.result["frames"], "cells": cells}


def _progress(run: Run) -> str:
    so_far = f"{duration_words(time.monotonic() - run.began_s)} so far"
    moment = run.moment
    if moment is None:
        return f"<p class='dc-note' role='status'>Another run is first; {so_far}.</p>"
    share = "" if moment.share is None else f" value='{moment.share:.3f}'"
    facts = [f"{moment.stage} {moment.amount}".strip(), moment.percent, moment.left, so_far]
    words = escape(", ".join(one for one in facts if one))
    return f"<p class='dc-note'><progress aria-label='Progress'{share}></progress> {words}</p>"


def _details(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(one)}</li>" for one in lines)
    return f"<details><summary>{escape(title)}</summary><ul>{items}</ul></details>"
