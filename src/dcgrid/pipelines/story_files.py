"""The files of a story: a video a scene, the reel of all, the storyboard.

Everything goes through the scenes piece by piece, so that a long one is never held whole.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from dcgrid import __version__
from dcgrid.io.atomic import StagedFiles
from dcgrid.io.progress import Progress
from dcgrid.pipelines.deliver import (
    HashedPieces,
    Take,
    Watched,
    result_timing,
    results_of,
)
from dcgrid.pipelines.footage import Footage, model_rate
from dcgrid.pipelines.generated import GeneratedClip
from dcgrid.pipelines.manifest import OutputRecord
from dcgrid.pipelines.result import REEL_STAGE, FrameCounter, result_frames, writing_stage
from dcgrid.pipelines.script import titles_of
from dcgrid.pipelines.story_plan import StoryPlan
from dcgrid.pipelines.upsampling import (
    ResultClip,
    Shown,
    text_size,
    without_source,
)
from dcgrid.video.reel import reel_length, reel_pieces
from dcgrid.video.sheet import write_contact_sheet
from dcgrid.video.write import Timing, write_pictures, write_pieces

TITLE_S = 1.5
"""Seconds that the reel shows a title."""
SHEET_FRAMES = 4
"""Frames of each scene on the storyboard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenScene:
    """One scene that will be written."""

    take: Take
    """Where it goes, its score and the hash of its pixels."""
    clip: GeneratedClip
    """Its frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenStory:
    """What was written, under temporary names."""

    records: tuple[OutputRecord, ...]
    """A record a scene."""
    reel_sha256: str
    """Hash of the reel's pixels."""
    notes: tuple[str, ...]
    """What was changed or left out."""


def write_story(
    plan: StoryPlan,
    footage: Footage | None,
    scenes: Sequence[TakenScene],
    staged: StagedFiles,
    progress: Progress,
) -> WrittenStory:
    """Write scenes, reel and storyboard.

    Raises:
        OutputError: A file cannot be written.
    """
    outputs, job = plan.prepared.outputs, plan.prepared.job
    records, notes, shown = list[OutputRecord](), list[str](), list[Watched]()
    timing, results, count = _timing(plan, footage), _scene_results(plan, footage), 0
    frames = plan.num_frames if footage is None else result_frames(job, footage.plan)
    counter = FrameCounter(progress, frames * len(scenes), writing_stage(job))
    for scene in scenes:
        part = staged.stage(scene.take.path)
        made = partial(results, scene, None)
        watched = Watched(made, _span_s(plan, footage), SHEET_FRAMES)
        report = write_pictures(
            part,
            counter.counted(watched.pictures),
            timing,
            sound=None if footage is None else footage.sound(),
            comment=_comment(plan),
        )
        notes += [note for note in report.notes if note not in notes]
        records.append(scene.take.record(part, watched.hexdigest))
        shown.append(watched)
        count = math.ceil(report.duration_s * timing.fps - 1e-3)
    reel_sha256 = ""
    if outputs.reel is not None:
        progress.start(REEL_STAGE)
        clips = [ResultClip(partial(results, one, timing.fps), count) for one in scenes]
        reel_sha256 = _write_reel(plan, clips, timing.fps, staged.stage(outputs.reel))
    if outputs.sheet is not None:
        titles = titles_of(job)
        labels = [f"{number} {title}" for number, title in enumerate(titles, start=1)]
        rows = [one.results for one in shown]
        if footage is not None:
            rows.insert(0, shown[0].sources)
            labels.insert(0, "clip")
        write_contact_sheet(staged.stage(outputs.sheet), rows, labels)
    return WrittenStory(records=tuple(records), reel_sha256=reel_sha256, notes=tuple(notes))


def _scene_results(
    plan: StoryPlan, footage: Footage | None
) -> Callable[[TakenScene, Fraction | None], Iterator[Shown]]:
    """Return what yields the frames of a scene, at a constant rate if one is named."""
    job = plan.prepared.job
    if footage is None:
        size = plan.cell_size if job.upsample == "none" else text_size(plan.cell_size)
        return lambda scene, _: without_source(scene.clip.pieces(), model_rate(plan.spec), size)
    wanted = model_rate(plan.spec) if job.fps == "model" else None

    def results(scene: TakenScene, rate: Fraction | None) -> Iterator[Shown]:
        return results_of(plan, footage, scene.take, scene.clip, rate or wanted)

    return results


def _span_s(plan: StoryPlan, footage: Footage | None) -> float:
    """Return the seconds of a scene."""
    return plan.num_frames / plan.spec.fps if footage is None else footage.plan.duration_s


def _timing(plan: StoryPlan, footage: Footage | None) -> Timing:
    if footage is None:
        return Timing.constant(plan.spec.fps)
    return result_timing(plan.prepared.job, footage.plan, plan.spec)


def _write_reel(plan: StoryPlan, clips: Sequence[ResultClip], fps: Fraction, path: Path) -> str:
    """Write the reel, at one rate whatever that of the clip; return the hash of its pixels."""
    job = plan.prepared.job
    title_s = TITLE_S if job.titles else 0
    count = reel_length([len(clip) for clip in clips], fps, job.fade_s)
    pieces = HashedPieces(
        partial(reel_pieces, clips, titles_of(job), fps, title_s=title_s, fade_s=job.fade_s), count
    )
    write_pieces(path, pieces, fps, num_frames=count, comment=_comment(plan))
    return pieces.hexdigest


def _comment(plan: StoryPlan) -> str:
    return f"made by dcgrid {__version__} with the model {plan.spec.name}"
