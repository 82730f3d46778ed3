"""What a clip is: the facts of a source, the rules of a model, the plan between them, the frames.

Nothing here opens a file. Letters: T frames, H height, W width; the last 3 are red, green, blue.
"""

import shlex
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from dcgrid.io.progress import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """Facts about a video file, as a viewer would see it."""

    path: Path
    """Where the file is."""
    container: str
    """Container as FFmpeg names it, e.g. "mov,mp4,m4a,3gp,3g2,mj2"."""
    codec: str
    """Video codec, e.g. "h264"."""
    width: int
    """Pixels, after rotation and with square pixels."""
    height: int
    """Pixels, after rotation and with square pixels."""
    rotation: int
    """Degrees clockwise that the stored picture is turned for display: 0, 90, 180 or 270."""
    sar: Fraction
    """Shape of a stored pixel, width / height; 1 is square."""
    fps_avg: float
    """Frames per second on average; 0.0 if unknown (one frame)."""
    is_vfr: bool
    """True: the time between frames varies."""
    rate: Fraction | None = None
    """The exact rate where all stamps lie on its grid, up to rounding; None: they do not."""
    time_base: Fraction = Fraction(1, 90_000)
    """The finest time that the container can say, in seconds."""
    num_frames: int | None
    """Frames in the file; None: not counted (long file)."""
    duration_s: float | None
    """Seconds of video from the first frame on; None: unknown."""
    has_audio: bool
    """True: there is a sound track."""
    audio_codec: str
    """Codec of the sound track that is kept, e.g. "aac"; empty: none."""
    color: str
    """How the stored values become colours, e.g. "bt709 limited"."""
    has_alpha: bool
    """True: the frames carry transparency."""
    origin_s: float = 0.0
    """Time of the first frame on the file's own clock, to which the sound is tied."""
    pause: tuple[float, float] | None = None
    """Start and length of the longest time without a new picture or sound, in seconds after the
    first frame; None: there is no long one."""
    warnings: tuple[str, ...] = ()
    """Short sentences about what is odd in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRules:
    """What a model asks of a clip."""

    fps: float
    """Frames per second; > 0."""
    stride: int
    """A clip has stride * n + 1 frames."""
    max_frames: int
    """Most frames of a clip."""
    cell_sizes: tuple[tuple[int, int], ...]
    """Sizes (height, width) in pixels to choose from."""
    default_frames: int | None = None
    """Frames when no duration is asked for; None: `max_frames`."""
    longest: int | None = None
    """Most frames of a clip that is processed window by window, each of at most `max_frames`; it
    counts only when a duration is asked for. None: no windows, so `max_frames`."""
    keeps_all: bool = False
    """True: nothing of the source is lost. All of it is used where no duration is asked for, its
    last frame is held up to the next stride * n + 1, and its picture is padded to the cell. False:
    frames are left out at the end, and the picture is cropped to the cell."""

    def __post_init__(self) -> None:
        """Refuse rules that no clip can meet."""
        if not self.fps > 0 or self.stride < 1 or self.max_frames < 1 or not self.cell_sizes:
            raise ValueError(f"impossible clip rules: {self}")
        if self.longest is not None and self.longest < self.max_frames:
            raise ValueError(f"longest is less than max_frames: {self}")

    @property
    def most_frames(self) -> int:
        """The longest clip that may be asked for: `longest`, or `max_frames` without windows."""
        return self.max_frames if self.longest is None else self.longest

    def frames_within(self, frames: int) -> int:
        """Return the largest stride * n + 1 that is at most `frames` (and `most_frames`); >= 1."""
        limit = max(1, min(frames, self.most_frames))
        return (limit - 1) // self.stride * self.stride + 1

    def frames_covering(self, frames: int) -> int:
        """Return the smallest stride * n + 1 that is at least `frames` and `least_frames`."""
        steps = -(-(frames - 1) // self.stride)
        return min(max(steps * self.stride + 1, self.least_frames), self.most_frames)

    @property
    def least_frames(self) -> int:
        """The shortest clip: stride + 1 frames, or 1 where `max_frames` allows no more."""
        return self.frames_within(self.stride + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """What becomes of a source: kept, dropped, resampled, scaled and cropped."""

    info: SourceInfo
    """The source."""
    fps: float
    """Frames per second of the clip."""
    num_frames: int
    """Frames of the clip, held ones included."""
    held_frames: int
    """Copies of the last frame at the end, because the source is too short."""
    start_s: float
    """Where the clip starts, in seconds after the first frame of the source."""
    duration_s: float
    """Seconds of the source that are used."""
    dropped_s: float | None
    """Seconds of the source (or of the asked part) left out at the end; None: unknown."""
    cell_size: tuple[int, int]
    """Height and width in pixels of the clip."""
    scaled_size: tuple[int, int]
    """Height and width in pixels before it is cropped or padded to the cell."""
    keeps_all: bool = False
    """True: it was made by such rules (see `ClipRules`)."""
    to_end: bool = False
    """True: all of the source from `start_s` on is used, whatever `duration_s` says."""
    notes: tuple[str, ...] = ()
    """More sentences: odd things in the source, and what was done about them."""
    is_guess: bool = False
    """True: all of a source of unknown length was asked for, so it may have fewer than
    `num_frames` frames; `measure_plan` tells."""

    @property
    def picture(self) -> tuple[slice, slice]:
        """Rows and columns of a cell that the source covers; the rest is padding."""
        firsts = [(c - s) // 2 if s < c else 0 for c, s in zip(*self._sizes, strict=True)]
        lengths = [min(c, s) for c, s in zip(*self._sizes, strict=True)]
        rows, cols = (slice(a, a + n) for a, n in zip(firsts, lengths, strict=True))
        return rows, cols

    @property
    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.cell_size, self.scaled_size

    def lines(self) -> list[str]:
        """Return the plan as plain sentences, one per line; nothing done is left out."""
        return [
            self._source_line(),
            *self._still_lines(),
            *(self._whole_lines() if self.keeps_all else self._time_lines()),
            self._padding_line() if self.keeps_all else self._size_line(),
            *self.info.warnings,
            *self.notes,
        ]

    def _source_line(self) -> str:
        info = self.info
        length = "unknown length" if info.duration_s is None else f"{info.duration_s:.2f} s"
        rate = f"{info.fps_avg:.4g} fps" if info.fps_avg else "one frame"
        varying = " (varying)" if info.is_vfr else ""
        turned = f", turned by {info.rotation} degrees" if info.rotation else ""
        pixels = f", pixels {info.sar} made square" if info.sar != 1 else ""
        sound = f", sound {info.audio_codec}" if info.has_audio else ", no sound"
        return (
            f"Source: {info.width}x{info.height}, {rate}{varying}, {length}, {info.codec}, "
            f"{info.color}{turned}{pixels}{sound}."
        )

    def _still_lines(self) -> list[str]:
        """Return what one picture can do here, and how to make a longer clip of it."""
        info = self.info
        if info.num_frames != 1:
            return []
        line = "This is a single picture: it stands still, and so short a clip shows no motion."
        if info.container.endswith("_pipe") or info.container == "image2":
            name = shlex.quote(str(info.path))
            line += f" For 3 s of it: `ffmpeg -loop 1 -i {name} -t 3 -c:v ffv1 still.mkv`."
        return [line]

    def _whole_lines(self) -> list[str]:
        end_s = self.start_s + self.duration_s
        model = f"{counted(self.num_frames, 'frame')} at {self.fps:.4g} fps"
        held = f", the last {self.held_frames} held" if self.held_frames else ""
        lines = [f"Used: {self.start_s:.2f} s to {end_s:.2f} s; the model gets {model}{held}."]
        if self.is_guess:
            lines.append("The file does not say how long it is: it is used to its end.")
        elif self.dropped_s and self.dropped_s > 0.5 / self.fps:
            lines.append(f"Left out: {self.dropped_s:.2f} s after that.")
        return lines

    def _padding_line(self) -> str:
        height, width = self.cell_size
        tall, wide = self.scaled_size
        line = f"Scaled for the model: {self.info.width}x{self.info.height} to {wide}x{tall}"
        if (tall, wide) == (height, width):
            return line + "."
        return f"{line}, padded to {width}x{height}; the padding is cut off again."

    def _time_lines(self) -> list[str]:
        end_s = self.start_s + self.duration_s
        lines = [
            f"Kept: {self.start_s:.2f} s to {end_s:.2f} s, "
            f"{counted(self.num_frames, 'frame')} at {self.fps:.4g} fps."
        ]
        if self.held_frames:
            lines.append(
                f"The used part is shorter than the shortest clip: its last frame is held for "
                f"{self.held_frames} more frame{'s' * (self.held_frames > 1)}."
            )
        if self.is_guess:
            lines.append(
                f"The file does not say how long it is: the clip ends at {end_s:.2f} s, or where "
                "the video ends if that is sooner."
            )
        if self.dropped_s is None:
            lines.append("Dropped: whatever comes after that.")
        elif self.dropped_s > 0.5 / self.fps:
            lines.append(f"Dropped: {self.dropped_s:.2f} s after that.")
        if self.info.fps_avg and abs(self.info.fps_avg - self.fps) > 0.01:
            lines.append(
                f"Resampled: {self.info.fps_avg:.4g} to {self.fps:.4g} fps (nearest frame in time)."
            )
        return lines

    def _size_line(self) -> str:
        height, width = self.cell_size
        tall, wide = self.scaled_size
        line = f"Scaled: {self.info.width}x{self.info.height} to {wide}x{tall}"
        cut_x, cut_y = wide - width, tall - height
        if not cut_x and not cut_y:
            return line + ", nothing cropped."
        cuts = []
        if cut_x:
            cuts.append(f"{100 * cut_x / wide:.0f}% of the width")
        if cut_y:
            cuts.append(f"{100 * cut_y / tall:.0f}% of the height")
        return f"{line}, cropped in the middle to {width}x{height} ({' and '.join(cuts)} is cut)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One frame of a video at the size of a file, and when it is on display."""

    rgb_HWC: torch.Tensor
    """Upright, square pixels; RGB, uint8, shape (H, W, 3)."""
    time: Fraction
    """Seconds after the first one; >= 0."""
    duration: Fraction
    """Seconds until the next one is due; > 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundSource:
    """The piece of a file whose sound goes with a clip."""

    path: Path
    """File with the sound track."""
    start_s: float
    """Seconds after the first frame of that file."""
    duration_s: float
    """Seconds of sound; > 0."""
    origin_s: float = 0.0
    """Time of the first frame on the file's own clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A piece of video, ready for a model."""

    frames_THWC: torch.Tensor
    """RGB frames; uint8, shape (T, H, W, 3)."""
    fps: Fraction
    """Frames per second."""
    source: SourceInfo
    """Where it came from."""
    start_s: float
    """Seconds after the first frame of the source."""
    duration_s: float
    """Seconds of the source that were used; less than T / fps when frames are held."""

    def sound(self) -> SoundSource | None:
        """Return the sound that goes with the frames; None: the source is silent."""
        if not self.source.has_audio:
            return None
        return SoundSource(
            path=self.source.path,
            start_s=self.start_s,
            duration_s=self.duration_s,
            origin_s=self.source.origin_s,
        )
