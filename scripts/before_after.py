"""The moving picture of README: a clip and three edits of it, side by side.

    dcgrid edit bigbuckbunny.mp4 -e rain -e snow -e sparks --start 2 --duration 2 --out runs/bunny/
    python scripts/before_after.py bigbuckbunny.mp4 2 \
        runs/bunny/bigbuckbunny.{rain,snow,sparks}.mp4 --out docs/pictures/edit.webp

An animated WebP of 12 frames a second.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dcgrid.video.read import decode_all

SIZE = (480, 270)
"""Width and height of each of the four."""
FPS = 12


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("start", type=float, help="seconds of the clip that were left out")
    parser.add_argument("edits", type=Path, nargs=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    edits = [_pictures(path) for path in options.edits]
    count = min(map(len, edits))
    shown = [_pictures(options.clip, options.start, count), *edits]
    labels = ["your clip", *(path.stem.rpartition(".")[2] for path in options.edits)]
    frames = []
    for number in range(count):
        frame = Image.new("RGB", (2 * SIZE[0], 2 * SIZE[1]))
        for place, (pictures, label) in enumerate(zip(shown, labels, strict=True)):
            picture = pictures[number].copy()
            pen = ImageDraw.Draw(picture)
            font = ImageFont.load_default(22)
            pen.text((12, 8), label, "white", font, stroke_width=2, stroke_fill="black")
            frame.paste(picture, ((place % 2) * SIZE[0], (place // 2) * SIZE[1]))
        frames.append(frame)
    frames[0].save(
        options.out,
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / FPS),
        loop=0,
        quality=62,
        method=6,
    )
    print(f"{options.out}: {count} frames, {options.out.stat().st_size} bytes")


def _pictures(path: Path, start_s: float = 0.0, count: int | None = None) -> list[Image.Image]:
    """Return small frames of a video, those on display at each twelfth of a second."""
    found: list[Image.Image] = []
    first_s = None
    for time_s, frame_HWC in decode_all(path):
        if time_s < start_s:
            continue
        first_s = time_s if first_s is None else first_s
        if time_s - first_s + 1e-3 >= len(found) / FPS:
            found.append(
                Image.fromarray(np.asarray(frame_HWC)).resize(SIZE, Image.Resampling.LANCZOS)
            )
        if len(found) == count:
            break
    return found


if __name__ == "__main__":
    main()
