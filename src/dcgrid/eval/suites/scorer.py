"""Scores what units made, and puts the videos where the report finds them.

    out/media/CLIP/source.mp4, rain.grid.0.mp4, rain.truth.mp4 ...
    out/cache/scores/HASH.json      HASH names result, source, prompt, truth, mask

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from dcgrid import __version__
from dcgrid.errors import InputVideoError
from dcgrid.eval.results import ClipEntry, Item, Score, Status
from dcgrid.eval.scoring import Case, Encoders, score_case
from dcgrid.eval.suites import footage
from dcgrid.eval.suites.request import EvalRequest, UnitOutcome, item_names
from dcgrid.eval.suites.schema import Task
from dcgrid.eval.suites.units import read_result
from dcgrid.io.atomic import write_whole
from dcgrid.io.progress import Progress
from dcgrid.io.schema import read_json
from dcgrid.models.loading import model_spec
from dcgrid.video.write import write_video


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The items of a unit, and the clip that they were made of."""

    clip: ClipEntry
    """The clip; of a composition together with its element."""
    items: tuple[Item, ...]
    """One for each result of the unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Footage:
    """What the results of a clip are compared with."""

    source_THWC: Tensor
    other_THWC: Tensor | None
    mask_THW: Tensor | None
    truths: Mapping[str, Tensor] = field(default_factory=dict)


class Scorer:
    """Scores units, clip by clip."""

    def __init__(self, request: EvalRequest, encoders: Encoders) -> None:
        self._request, self._encoders = request, encoders
        self._spec = model_spec(request.model)
        self._keys = request.suite.metrics
        columns = encoders.columns(self._keys)
        self._blank = {one.key: one.unavailable for one in columns if one.unavailable}
        self._named = {one.key: f"{one.key} {one.encoder}".strip() for one in columns}
        self._last: tuple[str, _Footage] | None = None

    def work(self, outcome: UnitOutcome, progress: Progress) -> Scored:
        """Score what a unit made; where it made nothing, its items say why.

        Raises:
            InputVideoError: The clip or its mask cannot be read.
            OutputError: The disk is full.
        """
        unit = outcome.unit
        clip = self._request.clips[unit.clip]
        names = item_names(self._request.suite, unit)
        key = clip.key if self._request.suite.kind != "compose" else _pair(clip.key, unit.tasks[0])
        try:
            shown = self._footage(key, unit.clip, unit.tasks)
        except InputVideoError as error:
            return self._unreadable(outcome, key, error)
        entry = self._entry(key, shown)
        scored: dict[str, Mapping[str, Score]] = {}
        for name in outcome.videos:
            scored[name] = self._scores(outcome, name, shown)
        items = (self._item(outcome, entry, name, scored.get(name)) for name in names)
        return Scored(clip=entry, items=tuple(_with_truth(one, shown) for one in items))

    def _unreadable(self, outcome: UnitOutcome, key: str, error: InputVideoError) -> Scored:
        """Count all results of a clip as failed that breaks off while it is read."""
        names = item_names(self._request.suite, outcome.unit)
        broken = replace(outcome, videos={}, errors=dict.fromkeys(names, error.message))
        entry = ClipEntry(key=key, label=key, video="", frames=0, fps=self._spec.fps)
        items = tuple(self._item(broken, entry, name, None) for name in names)
        return Scored(clip=entry, items=items)

    def _footage(self, key: str, index: int, tasks: Sequence[Task]) -> _Footage:
        """Return what the results of a clip are compared with; read once for all methods."""
        request, spec = self._request, self._spec
        name = f"{key} {[task.key for task in tasks]}"
        if self._last is None or self._last[0] != name:
            clip = request.clips[index]
            source_THWC = footage.source_frames(request, spec, clip)
            other_THWC, truths = None, dict[str, Tensor]()
            if request.suite.kind == "truth":
                truths = {t.key: footage.effect_truth(t, source_THWC, spec.fps) for t in tasks}
            elif request.suite.kind == "compose":
                other_THWC = footage.element_frames(tasks[0], source_THWC, spec.fps, index)
                truths = footage.fusion_truths(source_THWC, other_THWC)
            mask_THW = footage.read_mask(request, spec, clip, len(source_THWC))
            shown = _Footage(
                source_THWC=source_THWC, other_THWC=other_THWC, mask_THW=mask_THW, truths=truths
            )
            self._last = (name, shown)
        return self._last[1]

    def _scores(self, outcome: UnitOutcome, name: str, shown: _Footage) -> Mapping[str, Score]:
        """Score one result; what an earlier run measured is read."""
        result_THWC = read_result(outcome.videos[name])
        prompt = self._prompt(outcome, name)
        truth_THWC = shown.truths.get(name)
        scenes = self._scenes(outcome, name)
        file = self._cache_file([result_THWC, *_tensors(shown, name), *scenes], prompt)
        known = _read_scores(file)
        wanted = [key for key in self._keys if key not in self._blank]
        missing = [key for key in wanted if self._named[key] not in known]
        if missing:
            case = Case(
                source_THWC=shown.source_THWC,
                result_THWC=result_THWC,
                prompt=prompt,
                fps=self._spec.fps,
                truth_THWC=truth_THWC,
                subject_THW=shown.mask_THW,
                other_THWC=shown.other_THWC,
                scenes=scenes,
            )
            found = score_case(case, missing, self._encoders)
            known |= {self._named[key]: score for key, score in found.items()}
            _write_scores(file, known)
        return {key: known[self._named[key]] for key in wanted} | self._absent()

    def _absent(self) -> dict[str, Score]:
        return {key: Score(value=None, reason=reason) for key, reason in self._blank.items()}

    def _scenes(self, outcome: UnitOutcome, name: str) -> tuple[Tensor, ...]:
        """Return the other scenes of a result's story."""
        if self._request.suite.kind != "story":
            return ()
        others = (path for other, path in outcome.videos.items() if other != name)
        return tuple(map(read_result, others))

    def _item(
        self,
        outcome: UnitOutcome,
        entry: ClipEntry,
        name: str,
        scores: Mapping[str, Score] | None,
    ) -> Item:
        unit = outcome.unit
        key = f"{entry.key}--{name}--{unit.method}--{unit.seed}"
        if scores is None:
            status: Status = "failed" if name in outcome.errors else "missing"
            error = outcome.errors.get(name, "no video was handed in")
            return Item(
                key=key,
                clip=entry.key,
                task=name,
                method=unit.method,
                seed=unit.seed,
                status=status,
                error=error,
            )
        video = self._write(
            f"{entry.key}/{name}.{unit.method}.{unit.seed}", read_result(outcome.videos[name])
        )
        share = None if outcome.seconds is None else outcome.seconds / len(outcome.videos)
        return Item(
            key=key,
            clip=entry.key,
            task=name,
            method=unit.method,
            seed=unit.seed,
            status="done",
            video=video,
            seconds=None if share is None else round(share, 3),
            scores={metric: scores[metric] for metric in self._keys if metric in scores},
        )

    def _entry(self, key: str, shown: _Footage) -> ClipEntry:
        """Write what a clip's results are compared with, and return the clip."""
        second = ""
        if shown.other_THWC is not None:
            second = self._write(f"{key}/element", shown.other_THWC)
        for name, truth_THWC in shown.truths.items():
            self._write(f"{key}/{name}.truth", truth_THWC)
        return ClipEntry(
            key=key,
            label=key,
            video=self._write(f"{key}/source", shown.source_THWC),
            frames=len(shown.source_THWC),
            fps=self._spec.fps,
            second=second,
        )

    def _write(self, name: str, frames_THWC: Tensor) -> str:
        """Write a video for the report unless it is there; return its path from the results."""
        place = f"media/{name}.mp4"
        path = self._request.out / place
        mark = self._request.out / "cache" / "marks" / f"{name}.sha256"
        digest = _digest([frames_THWC], "")
        if not path.exists() or not mark.exists() or mark.read_text() != digest:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames_THWC, self._spec.fps, overwrite=True)
            write_whole(mark, digest)
        return place

    def _prompt(self, outcome: UnitOutcome, name: str) -> str:
        tasks = {task.key: task for task in outcome.unit.tasks}
        subject = self._request.clips[outcome.unit.clip].subject
        return tasks[name].prompt.replace("{subject}", subject) if name in tasks else ""

    def _cache_file(self, tensors: Sequence[Tensor], prompt: str) -> Path:
        return self._request.out / "cache" / "scores" / f"{_digest(tensors, prompt)}.json"


def _with_truth(item: Item, shown: _Footage) -> Item:
    """Return an item with the truth beside it, if one is known and there is a video."""
    if item.status != "done" or item.task not in shown.truths:
        return item
    return replace(item, truth=f"media/{item.clip}/{item.task}.truth.mp4")


def _pair(clip: str, task: Task) -> str:
    return f"{clip}+{task.key}"


def _tensors(shown: _Footage, name: str) -> Iterator[Tensor]:
    """Yield what decides the scores of a result, beside it."""
    for one in (shown.source_THWC, shown.other_THWC, shown.mask_THW, shown.truths.get(name)):
        # Something in each place, so that a mask is never taken for a truth.
        yield torch.zeros(0) if one is None else one


def _digest(tensors: Sequence[Tensor], prompt: str) -> str:
    digest = hashlib.sha256(f"{__version__} {prompt}".encode())
    for one in tensors:
        digest.update(f"{tuple(one.shape)}".encode())
        digest.update(one.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _read_scores(path: Path) -> dict[str, Score]:
    """Return what is kept of a result; nothing if the file is missing or damaged."""
    try:
        return read_json(path, InputVideoError, hint="").build(dict[str, Score])
    except InputVideoError:
        return {}


def _write_scores(path: Path, scores: Mapping[str, Score]) -> None:
    values = {key: asdict(score) for key, score in scores.items()}
    write_whole(path, json.dumps(values, allow_nan=False))
