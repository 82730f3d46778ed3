"""The files of a story: a video a scene, the reel of all, the storyboard.

Everything goes through the scenes piece by piece, so that a long one is never held whole.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch

from dcgrid import __version__
from dcgrid.pipelines.deliver import HashedPieces, Take, enlarged, picked
from dcgrid.pipelines.footage import Footage
from dcgrid.pipelines.manifest import OutputRecord
from dcgrid.pipelines.outputs import StagedFiles
from dcgrid.pipelines.painted import PaintedClip
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.script import titles_of
from dcgrid.pipelines.story_plan import StoryPlan
from dcgrid.pipelines.windows import sheet_frames
from dcgrid.video.reel import reel_length, reel_pieces
from dcgrid.video.sheet import write_contact_sheet
from dcgrid.video.write import write_pieces

TITLE_S = 1.5
"""Seconds that the reel shows a title."""
SHEET_FRAMES = 4
"""Frames of each scene on the storyboard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenScene:
    """One scene that will be written."""

    take: Take
    """Where it goes, its score and the hash of its pixels."""
    clip: PaintedClip
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
    outputs = plan.prepared.outputs
    records, notes = list[OutputRecord](), list[str]()
    progress.start("writing", len(scenes) + 2)
    for done, scene in enumerate(scenes, start=1):
        part = staged.stage(scene.take.path)
        report = write_pieces(
            part,
            scene.clip.pieces,
            _fps(plan),
            num_frames=len(scene.clip),
            sound=None if footage is None else footage.sound(),
            comment=_comment(plan),
        )
        notes += [note for note in report.notes if note not in notes]
        records.append(scene.take.record(part))
        progress.update(done)
    reel_sha256 = ""
    if outputs.reel is not None:
        reel_sha256 = _write_reel(plan, [one.clip for one in scenes], staged.stage(outputs.reel))
    progress.update(len(scenes) + 1)
    if outputs.sheet is not None:
        _write_storyboard(plan, footage, scenes, staged.stage(outputs.sheet))
    return WrittenStory(records=tuple(records), reel_sha256=reel_sha256, notes=tuple(notes))


def _write_reel(plan: StoryPlan, clips: Sequence[PaintedClip], path: Path) -> str:
    """Write the reel; return the hash of its pixels."""
    job, fps = plan.prepared.job, _fps(plan)
    title_s = TITLE_S if job.titles else 0
    count = reel_length([len(clip) for clip in clips], fps, job.fade_s)
    pieces = HashedPieces(
        partial(reel_pieces, clips, titles_of(job), fps, title_s=title_s, fade_s=job.fade_s), count
    )
    write_pieces(path, pieces, fps, num_frames=count, comment=_comment(plan))
    return pieces.hexdigest


def _write_storyboard(
    plan: StoryPlan, footage: Footage | None, scenes: Sequence[TakenScene], path: Path
) -> None:
    """Write frames of the clip and of each scene."""
    wanted = sheet_frames(plan.windows, SHEET_FRAMES)
    titles = titles_of(plan.prepared.job)
    labels = [f"{number} {title}" for number, title in enumerate(titles, start=1)]
    rows = [torch.cat([scene.clip[n : n + 1] for n in wanted]) for scene in scenes]
    if footage is not None:
        height, width = rows[0].shape[1:3]
        given_THWC = picked(footage.pieces(plan.windows), wanted)
        rows.insert(0, enlarged(given_THWC, (height, width)))
        labels.insert(0, "clip")
    write_contact_sheet(path, [list(row_THWC) for row_THWC in rows], labels)


def _fps(plan: StoryPlan) -> Fraction:
    return Fraction(plan.spec.fps).limit_denominator(100_000)


def _comment(plan: StoryPlan) -> str:
    return f"made by dcgrid {__version__} with the model {plan.spec.name}"
