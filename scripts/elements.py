"""Make the clips of elements that come with the program (recipes/elements).

python scripts/elements.py
"""

import argparse
from fractions import Fraction
from pathlib import Path

import torch

from dcgrid.pipelines.elements import ELEMENT_CLIPS
from dcgrid.synthetic.fusion import draw_element
from dcgrid.video.write import write_pieces

SIZE, FPS, SECONDS = (384, 640), 24, 6


def main() -> None:
    """Write one clip of each element."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("recipes/elements"))
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    count = FPS * SECONDS
    for name in ELEMENT_CLIPS:
        clip_CTHW = draw_element(
            name,
            torch.zeros(3, count, *SIZE),
            torch.arange(count) / FPS,
            torch.Generator().manual_seed(options.seed),
        )
        frames_THWC = (clip_CTHW * 255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()
        path = options.out / f"{name}.mp4"
        path.unlink(missing_ok=True)
        write_pieces(
            path,
            lambda frames_THWC=frames_THWC: iter([frames_THWC]),
            Fraction(FPS),
            num_frames=count,
            comment="drawn by scripts/elements.py of dcgrid, CC0-1.0",
        )
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
