"""Scores what units made, and puts the videos where the report finds them.

    out/media/CLIP/source.mp4, rain.grid.0.mp4, rain.truth.mp4 ...
    out/cache/scores/HASH.json      HASH names result, source, prompt, truth, mask

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from dcgrid import __version__
from dcgrid.errors import InputVideoError
from dcgrid.eval.results import ClipEntry, Item, Score, Status
from dcgrid.eval.scoring import Case, Encoders, score_case
from dcgrid.eval.suites import compared_frames
from dcgrid.eval.suites.suite import EvalRequest, Unit, UnitOutcome, item_names
from dcgrid.eval.suites.unit_generation import read_result
from dcgrid.io.atomic import write_whole
from dcgrid.io.progress import Progress
from dcgrid.io.schema import read_json
from dcgrid.models.base import ModelSpec
from dcgrid.models.registry import find_model
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


@dataclass(slots=True, kw_only=True)
class ScoringContext:
    """What all units of a process share."""

    request: EvalRequest
    encoders: Encoders
    spec: ModelSpec
    blank: Mapping[str, str]
    """Metrics that cannot be measured here, each with the reason."""
    named: Mapping[str, str]
    """Metrics with the network that measures them, as the cache names them."""
    last: tuple[str, _Footage] | None = None
    """The last clip: what is read of it serves all methods."""


def scoring_context(request: EvalRequest, encoders: Encoders) -> ScoringContext:
    """Return the context of a process that scores with some networks."""
    columns = encoders.columns(request.suite.metrics)
    return ScoringContext(
        request=request,
        encoders=encoders,
        spec=find_model(request.model).spec,
        blank={one.key: one.unavailable for one in columns if one.unavailable},
        named={one.key: f"{one.key} {one.encoder}".strip() for one in columns},
    )


def score_unit(context: ScoringContext, outcome: UnitOutcome, progress: Progress) -> Scored:
    """Score what a unit made; where it made nothing, its items say why.

    Raises:
        OutputError: The disk is full.
    """
    del progress
    suite, unit = context.request.suite, outcome.unit
    key, names = context.request.clips[unit.clip].key, item_names(suite, unit)
    if suite.kind == "compose":
        key = f"{key}+{unit.tasks[0].key}"
    shown: _Footage | None = None
    try:
        shown = _footage(context, key, unit)
        entry = _entry(context, key, shown)
    except InputVideoError as error:
        # A clip that breaks off while it is read: all of its results count as failed.
        outcome = replace(outcome, errors=dict.fromkeys(names, error.message))
        entry = ClipEntry(key=key, label=key, video="", frames=0, fps=context.spec.fps)
    items = tuple(_item(context, outcome, entry, shown, name) for name in names)
    return Scored(clip=entry, items=items)


def _footage(context: ScoringContext, key: str, unit: Unit) -> _Footage:
    """Return what the results of a clip are compared with; read once for all methods.

    Raises:
        InputVideoError: The clip or its mask cannot be read.
    """
    request, spec, tasks = context.request, context.spec, unit.tasks
    name = f"{key} {[task.key for task in tasks]}"
    if context.last is None or context.last[0] != name:
        clip = request.clips[unit.clip]
        source_THWC = compared_frames.source_frames(request, spec, clip)
        other_THWC, truths = None, dict[str, Tensor]()
        if request.suite.kind == "truth":
            truths = {t.key: compared_frames.effect_truth(t, source_THWC, spec.fps) for t in tasks}
        elif request.suite.kind == "compose":
            other_THWC = compared_frames.element_frames(tasks[0], source_THWC, spec.fps, unit.clip)
            truths = compared_frames.fusion_truths(source_THWC, other_THWC)
        mask_THW = compared_frames.read_mask(request, spec, clip, len(source_THWC))
        shown = _Footage(
            source_THWC=source_THWC, other_THWC=other_THWC, mask_THW=mask_THW, truths=truths
        )
        context.last = (name, shown)
    return context.last[1]


def _item(
    context: ScoringContext,
    outcome: UnitOutcome,
    entry: ClipEntry,
    shown: _Footage | None,
    name: str,
) -> Item:
    unit = outcome.unit
    item = Item(
        key=f"{entry.key}--{name}--{unit.method}--{unit.seed}",
        clip=entry.key,
        task=name,
        method=unit.method,
        seed=unit.seed,
        status="done",
    )
    if shown is None or name not in outcome.videos:
        status: Status = "failed" if name in outcome.errors else "missing"
        error = outcome.errors.get(name, "no video was handed in")
        return replace(item, status=status, error=error)
    result_THWC = read_result(outcome.videos[name])
    seconds = None if outcome.seconds is None else outcome.seconds / len(outcome.videos)
    return replace(
        item,
        video=_write(context, f"{entry.key}/{name}.{unit.method}.{unit.seed}", result_THWC),
        truth=f"media/{entry.key}/{name}.truth.mp4" if name in shown.truths else "",
        seconds=None if seconds is None else round(seconds, 3),
        scores=_scores(context, outcome, shown, name, result_THWC),
    )


def _scores(
    context: ScoringContext,
    outcome: UnitOutcome,
    shown: _Footage,
    name: str,
    result_THWC: Tensor,
) -> dict[str, Score]:
    """Score one result; what an earlier run measured is read."""
    suite, unit = context.request.suite, outcome.unit
    prompt = next((task.prompt for task in unit.tasks if task.key == name), "")
    scenes = [path for other, path in outcome.videos.items() if other != name]
    case = Case(
        source_THWC=shown.source_THWC,
        result_THWC=result_THWC,
        prompt=prompt.replace("{subject}", context.request.clips[unit.clip].subject),
        fps=context.spec.fps,
        truth_THWC=shown.truths.get(name),
        subject_THW=shown.mask_THW,
        other_THWC=shown.other_THWC,
        scenes=tuple(map(read_result, scenes)) if suite.kind == "story" else (),
    )
    file = context.request.out / "cache" / "scores" / f"{_digest_of_case(case)}.json"
    known = _read_scores(file)
    missing = [
        key for key in suite.metrics if key not in context.blank and context.named[key] not in known
    ]
    if missing:
        found = score_case(case, missing, context.encoders)
        known |= {context.named[key]: score for key, score in found.items()}
        values = {key: asdict(score) for key, score in known.items()}
        write_whole(file, json.dumps(values, allow_nan=False))
    blank = {key: Score(value=None, reason=reason) for key, reason in context.blank.items()}
    return {key: blank.get(key) or known[context.named[key]] for key in suite.metrics}


def _entry(context: ScoringContext, key: str, shown: _Footage) -> ClipEntry:
    """Write what a clip's results are compared with, and return the clip."""
    second = ""
    if shown.other_THWC is not None:
        second = _write(context, f"{key}/element", shown.other_THWC)
    for name, truth_THWC in shown.truths.items():
        _write(context, f"{key}/{name}.truth", truth_THWC)
    return ClipEntry(
        key=key,
        label=key,
        video=_write(context, f"{key}/source", shown.source_THWC),
        frames=len(shown.source_THWC),
        fps=context.spec.fps,
        second=second,
    )


def _write(context: ScoringContext, name: str, frames_THWC: Tensor) -> str:
    """Write a video for the report unless it is there; return its path from the results."""
    place = f"media/{name}.mp4"
    path = context.request.out / place
    mark = context.request.out / "cache" / "marks" / f"{name}.sha256"
    digest = _digest([frames_THWC], "")
    if not path.exists() or not mark.exists() or mark.read_text() != digest:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames_THWC, context.spec.fps, overwrite=True)
        write_whole(mark, digest)
    return place


def _digest_of_case(case: Case) -> str:
    """Return a hash of all that decides the scores of a result."""
    others = (case.source_THWC, case.other_THWC, case.subject_THW, case.truth_THWC)
    # Something in each place, so that a mask is never taken for a truth.
    filled = [torch.zeros(0) if one is None else one for one in others]
    return _digest([case.result_THWC, *filled, *case.scenes], case.prompt)


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
