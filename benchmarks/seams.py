"""`python -m benchmarks.seams`: can one see where the windows of a long clip meet?

A clip of 30 seconds is edited in windows. For every frame the mean difference to the one before is
taken, of the edit and of the clip itself; what the edit moves beyond the clip is the excess. At the
windows' borders the excess should lie within the spread of all others.

A clip that is too short is shown forwards and backwards in turn until it is long enough: that has
no cut.

Letters: T frames, H W height/width, C the 3 colours.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import options as shared
from benchmarks.clips import CLIPS_DIR, read_frames
from benchmarks.progress import Silent
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.plan import GenerationPlan, plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.run import run_plan
from dcgrid.video.frames import CellFrames
from dcgrid.video.read import decode_all
from dcgrid.video.write import write_video

SECONDS = 30.0
EFFECTS = ("rain", "night", "smoke")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamScore:
    """Frame differences of one edit, in grey levels of 255."""

    edit: str
    """Name of the effect."""
    borders: tuple[float, ...]
    """Excess at the borders of windows."""
    others: tuple[float, ...]
    """Excess at all other frames."""

    @property
    def rank(self) -> float:
        """Share of the other frames whose excess is below the borders' mean; 0.5 is unseen."""
        mean = statistics.fmean(self.borders)
        return sum(other < mean for other in self.others) / len(self.others)

    @property
    def worst(self) -> float:
        """Share of the other frames whose excess is below the worst border's; 1 is above all."""
        return sum(other < max(self.borders) for other in self.others) / len(self.others)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seams", description=__doc__)
    parser.add_argument("clip", nargs="?", type=Path, default=CLIPS_DIR / "cockatoo.mp4")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"length ({SECONDS})")
    parser.add_argument("--effects", nargs="+", default=list(EFFECTS), help="up to three effects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the videos (none is kept)")
    options = parser.parse_args(arguments)
    return shared.run_command(lambda: _run(options))


def score_seams(edit: str, plan: GenerationPlan, clip_THWC: Tensor, edit_THWC: Tensor) -> SeamScore:
    """Compare an edit's frame differences at the borders of windows with all others.

    Args:
        edit: Name of the effect.
        plan: Says where the windows meet.
        clip_THWC: The clip, uint8.
        edit_THWC: Its edit, uint8, as many frames; any size.
    """
    excess = [
        made - given
        for made, given in zip(_differences(edit_THWC), _differences(clip_THWC), strict=True)
    ]
    # Entry n of `excess` is the step from n to n + 1. Blended frames belong to the border.
    joins = [(one.first + one.head - 1, one.blend + 1) for one in plan.windows[1:]]
    borders = [first + n for first, steps in joins for n in range(steps)]
    return SeamScore(
        edit=edit,
        borders=tuple(excess[n] for n in borders),
        others=tuple(value for n, value in enumerate(excess) if n not in borders),
    )


def _run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = options.keep or Path(folder)
        long = _lengthened(options.clip, options.seconds, Path(folder) / options.clip.name)
        job = EditJob(
            input=long, effects=tuple(options.effects), seed=options.seed, out=out,
            contact_sheet=False, force=True, fps="model", upsample="none",
        )  # fmt: skip
        plan = plan_run(prepare_run(job))
        result = run_plan(plan, Silent())
        frames, seconds = plan.clips[0].num_frames, sum(result.manifest.timings_s.values())
        memory = result.manifest.peak_memory_bytes / 1e9
        print(
            f"{options.clip.name}: {frames} frames, {len(plan.windows)} windows, {seconds:.0f} s, "
            f"{memory:.2f} GB at most"
        )
        print("effect         borders: mean   95 %   others: mean   95 %   rank  worst")
        clip_THWC = _read(long, plan)
        for output in result.manifest.outputs:
            edit_THWC = read_frames(out / output.path)
            print(_line(score_seams(output.edit, plan, clip_THWC, edit_THWC)))
    print("rank: share of other frames that move less than the borders' mean; 0.5 is unseen.")


def _line(score: SeamScore) -> str:
    return (
        f"{score.edit:12} {statistics.fmean(score.borders):16.2f} {_high(score.borders):6.2f}"
        f" {statistics.fmean(score.others):14.2f} {_high(score.others):6.2f}"
        f" {score.rank:6.2f} {score.worst:6.2f}"
    )


def _high(values: Sequence[float]) -> float:
    """Return the value that 95 % lie below."""
    return sorted(values)[int(0.95 * len(values))]


def _differences(frames_THWC: Tensor) -> list[float]:
    return [
        float((after.float() - before.float()).abs().mean())
        for before, after in pairwise(frames_THWC)
    ]


def _read(path: Path, plan: GenerationPlan) -> Tensor:
    """Read what the model was given."""
    rows, cols = plan.clips[0].picture
    count = plan.clips[0].num_frames - plan.clips[0].held_frames
    return CellFrames(path, plan.clips[0]).stretch(0, count)[:, rows, cols]


def _lengthened(path: Path, seconds: float, target: Path) -> Path:
    """Write the clip forwards and backwards in turn, at 12 frames a second and a small size."""
    frames = []
    for time_s, frame_HWC in decode_all(path):
        if time_s * 12 >= len(frames):
            frames.append(_small(frame_HWC))
    wanted = round(seconds * 12) + 1
    turn = frames + frames[-2:0:-1]
    repeated = [turn[n % len(turn)] for n in range(wanted)]
    write_video(target.with_suffix(".mp4"), torch.stack(repeated), 12)
    return target.with_suffix(".mp4")


def _small(frame_HWC: Tensor) -> Tensor:
    """Return a frame of about 320 pixels along its longer side, every nth pixel averaged."""
    factor = max(1, max(frame_HWC.shape[:2]) // 320)
    video = frame_HWC.permute(2, 0, 1)[None].float()
    small = torch.nn.functional.avg_pool2d(video, factor)
    return small[0].permute(1, 2, 0).round().to(torch.uint8)


if __name__ == "__main__":
    sys.exit(main())
