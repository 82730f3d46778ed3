"""The frames of the inputs: a short clip in memory, a long one read window by window.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import torch

from dcgrid import hub
from dcgrid.io.progress import Progress
from dcgrid.models.base import ModelSpec
from dcgrid.pipelines.clips import check_fade, clip_rules, windows_of
from dcgrid.pipelines.plan import GenerationPlan
from dcgrid.pipelines.scene_light import LOOKED_AT, SceneLight, scene_light
from dcgrid.pipelines.windows import Window
from dcgrid.video.clip import ClipPlan, ClipRules, Picture, SoundSource
from dcgrid.video.frames import CellFrames, source_frames
from dcgrid.video.read import measure_plan, read_clip

Asked = tuple[float | None, float | None]
"""Start and duration that were asked of a clip, in seconds; None: its first frame, the usual."""


IN_MEMORY = 257
"""Most frames of a clip that is held in memory at the size of a cell."""


class DecodedClip(Protocol):
    """What `Footage.decoded` can do; see `generate.GeneratedClip`."""

    def __getitem__(self, stretch: slice, /) -> torch.Tensor:
        """Return frames THWC, uint8."""

    def pieces(self) -> Iterator[torch.Tensor]:
        """Yield all frames in order, THWC, uint8, those of a window at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """What a run uses of one input."""

    path: Path
    """The input."""
    plan: ClipPlan
    """What of it is used."""
    whole_THWC: torch.Tensor | None
    """All its frames at the size of a cell, uint8; None: they are read when they are needed."""
    stream: CellFrames
    """Reads them."""
    sha256: str = ""
    """Hash of the file."""
    light: SceneLight | None = None
    """What of a scene is used that is composed with; None: all."""
    decoded: "DecodedClip | None" = None
    """Its frames as the model's autoencoder gives them back, like those that it generates."""

    def frames(self, window: Window) -> torch.Tensor:
        """Return the frames of a window at the size of a cell, THWC, uint8.

        A clip that ends before the window does is shown forwards and backwards in turn.

        Raises:
            InputVideoError: The video breaks before its plan ends.
        """
        wanted = range(window.first, window.first + window.count)
        at_T = torch.tensor([turned(number, self.plan.num_frames) for number in wanted])
        first, last = int(at_T.min()), int(at_T.max())
        if self.whole_THWC is not None:
            read_THWC = self.whole_THWC[at_T]
        else:
            read_THWC = self.stream.stretch(first, last + 1 - first)[at_T - first]
        return read_THWC if self.light is None else self.light.of(read_THWC)

    def first_frames(self, count: int) -> torch.Tensor:
        """Return the first frames at the size of a cell, THWC, uint8; at most all."""
        return self.stream.stretch(0, count) if self.whole_THWC is None else self.whole_THWC[:count]

    def pieces(self, windows: Sequence[Window]) -> Iterator[torch.Tensor]:
        """Yield all frames in order, those of a window at a time."""
        for window in windows:
            yield self.frames(window)[window.fresh]

    def guide_pieces(self, windows: Sequence[Window]) -> Iterator[torch.Tensor]:
        """Yield all frames as what is generated is best compared with; see `pieces`."""
        return self.pieces(windows) if self.decoded is None else self.decoded.pieces()

    def pictures(self) -> Iterator[Picture]:
        """Yield the frames of the source at its own size, each with its own time.

        Raises:
            InputVideoError: The video cannot be read.
        """
        return source_frames(self.path, self.plan)

    def sound(self) -> SoundSource | None:
        """Return the sound that goes with the frames; None: the source is silent."""
        if not self.plan.info.has_audio:
            return None
        return SoundSource(
            path=self.path,
            start_s=self.plan.start_s,
            duration_s=self.plan.duration_s,
            origin_s=self.plan.info.origin_s,
        )


def read_footage(
    plan: GenerationPlan, progress: Progress
) -> tuple[GenerationPlan, tuple[Footage, ...]]:
    """Read the inputs of a run; long ones later, window by window.

    Only decoding shows where a file lied about its length, so the plan may come back shorter.

    Raises:
        InputVideoError: An input cannot be decoded.
        UsageError: A story's fades are longer than its clip has turned out to be.
    """
    if not plan.clips:
        return plan, ()
    asked = tuple(zip(plan.job.starts_s, plan.asked_s, strict=True))
    footage = read_clips(plan.spec, plan.clips, asked, progress, plan.prepared.inputs_sha256)
    if len(footage) > 1 and not plan.spec.generates_from_text:
        count = min(LOOKED_AT, footage[1].plan.num_frames)
        concept = plan.job.slots.get("effect", "")
        light = scene_light(footage[1].first_frames(count), concept)
        footage = footage[0], replace(footage[1], light=light), *footage[2:]
    clips = tuple(one.plan for one in footage)
    check_fade(plan.job, clips[0].num_frames, plan.spec)
    return replace(plan, clips=clips, windows=windows_of(plan.spec, clips[0].num_frames)), footage


def read_clips(
    spec: ModelSpec,
    clips: Sequence[ClipPlan],
    asked_s: Sequence[Asked],
    progress: Progress,
    known_sha256: Sequence[str] = (),
) -> tuple[Footage, ...]:
    """Read clips that were planned: short ones now, long ones when they are needed.

    Args:
        spec: The model.
        clips: A plan a clip; the first decides how long the result is.
        asked_s: Start and duration that were asked of each.
        progress: Told of frames, and of what differs from the plans.
        known_sha256: Hashes of the files, if they were needed before.

    Raises:
        InputVideoError: A clip cannot be decoded.
    """
    digests = known_sha256 or [hub.file_sha256(clip.info.path) for clip in clips]
    found = []
    for clip, asked, digest in zip(clips, asked_s, digests, strict=True):
        known = clip.info.num_frames is not None or not clip.to_end
        read = _read if known and clip.num_frames <= IN_MEMORY else _measured
        found.append(replace(read(spec, clip, asked, progress), sha256=digest))
    return tuple(found)


def model_rate(spec: ModelSpec) -> Fraction:
    """Return a model's frame rate as a fraction."""
    return Fraction(spec.fps).limit_denominator(100_000)


def _measured(spec: ModelSpec, clip: ClipPlan, asked_s: Asked, progress: Progress) -> Footage:
    """Find out how long a clip truly is; keep no frame."""
    progress.start("measuring the clip")
    done = measure_plan(clip.info, _rules(spec, clip), *asked_s)
    if done.num_frames < clip.num_frames and not clip.is_guess:
        progress.note(f"The video is shorter than it says: it ends at {done.duration_s:.2f} s.")
    path = clip.info.path
    return Footage(path=path, plan=done, whole_THWC=None, stream=CellFrames(path, done))


def _read(spec: ModelSpec, planned: ClipPlan, asked_s: Asked, progress: Progress) -> Footage:
    """Read a short clip, and tell what only decoding showed."""
    path = planned.info.path
    progress.start("reading the clip", planned.num_frames)
    clip, done = read_clip(
        path,
        _rules(spec, planned),
        start_s=asked_s[0],
        duration_s=asked_s[1],
        on_frame=progress.update,
    )
    for line in done.lines():
        if line not in planned.lines():
            progress.note(line)
    stream = CellFrames(path, done)
    return Footage(path=path, plan=done, whole_THWC=clip.frames_THWC, stream=stream)


def _rules(spec: ModelSpec, clip: ClipPlan) -> ClipRules:
    """Return the model's rules for a clip whose size is settled."""
    return replace(clip_rules(spec), cell_sizes=(clip.cell_size,), keeps_all=clip.keeps_all)


def turned(number: int, count: int) -> int:
    """Return which of `count` frames is shown at a place, forwards and backwards in turn."""
    place = number % max(1, 2 * count - 2)
    return min(place, 2 * count - 2 - place) if count > 1 else 0
