"""Contact strips of the truths: what each effect makes of a person, an animal and a street.

    python scripts/truths.py --out runs/truths [--effects rain smoke] [--network FILE.tflite]

One PNG for each effect: a row for each clip, two consecutive frames and a later one. Look at them
beside real rain, snow, fire and smoke (shared/clips/elements).
"""

import argparse
from pathlib import Path

import torch

from dcgrid.synthetic.effects import EFFECT_NAMES, render_effect
from dcgrid.synthetic.effects_fields import CELL_SIDE
from dcgrid.synthetic.mattes import Matting
from dcgrid.video.clip import ClipRules
from dcgrid.video.read import read_clip
from dcgrid.video.sheet import write_contact_sheet

CLIPS = ("asl_book.mkv", "sam2_dog.mp4", "cockatoo.mp4", "bikes.mp4")
SIZE = (480, 640)
SHOWN = (8, 9, 16)
"""Frames of a strip, at 24 a second."""


def main() -> None:
    """Write the strips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, default=Path("../shared/clips"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the strips")
    parser.add_argument("--effects", nargs="+", default=EFFECT_NAMES, choices=EFFECT_NAMES)
    parser.add_argument("--network", type=Path, help="selfie_segmentation.tflite, for mattes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    matting = Matting(options.network) if options.network else None
    rules = ClipRules(fps=24, stride=1, max_frames=max(SHOWN) + 1, cell_sizes=(SIZE,))
    clips = {}
    for name in CLIPS:
        frames_THWC = read_clip(options.clips / name, rules)[0].frames_THWC
        clip_CTHW = frames_THWC.permute(3, 0, 1, 2).float() / 255
        clips[name] = clip_CTHW, matting(clip_CTHW) if matting else None
    for effect in options.effects:
        rows = [_rendered(effect, *clip) for clip in clips.values()]
        path = options.out / f"{effect}.png"
        write_contact_sheet(path, rows, list(clips), frames_per_clip=len(SHOWN), overwrite=True)
        print(path)


def _rendered(effect: str, clip_CTHW: torch.Tensor, matte_THW: torch.Tensor | None) -> torch.Tensor:
    """Return the shown frames under an effect, THWC, uint8."""
    made_CTHW = render_effect(
        effect,
        clip_CTHW,
        generator=torch.Generator().manual_seed(5),
        fps=24,
        scale=(SIZE[0] * SIZE[1]) ** 0.5 / CELL_SIDE,
        matte_THW=matte_THW,
    )
    shown_CTHW = made_CTHW[:, list(SHOWN)]
    return (shown_CTHW * 255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()


if __name__ == "__main__":
    main()
