"""`python -m scripts.ui_previews CLIP`: the moving previews of effects that `dcgrid ui` shows.

CLIP is bigbuckbunny.mp4. Two seconds of it, edited by `mini` with each shipped effect (or those
that are named), go to src/dcgrid/ui/page/previews, about 10 kB each.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

import dcgrid
from benchmarks.options import run_command
from dcgrid.recipes import effect_names

FOLDER = Path(__file__).parents[1] / "src" / "dcgrid" / "ui" / "page" / "previews"
WIDTH, HEIGHT, FPS, START_S, SECONDS = 256, 144, 12, 2.0, 2.0
AT_ONCE = 3
"""Edits of one grid."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.ui_previews", description=__doc__)
    parser.add_argument("clip", type=Path, help="bigbuckbunny.mp4")
    parser.add_argument("effects", nargs="*", help="names of effects (all)")
    options = parser.parse_args(arguments)
    return run_command(lambda: make_previews(options.clip, options.effects or effect_names()))


def make_previews(clip: Path, names: Sequence[str]) -> None:
    """Edit a small version of the clip with every effect."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, dcgrid.Session() as session:
        small = Path(name) / "clip.mp4"
        write_small(small, read_part(clip), crf=12)
        for first in range(0, len(names), AT_ONCE):
            result = session.edit(small, names[first : first + AT_ONCE], contact_sheet=False)
            for video in result.videos:
                path = FOLDER / f"{video.edit}.mp4"
                write_small(path, video.frames(), crf=29)
                print(f"wrote {path} ({path.stat().st_size} bytes)")


def read_part(clip: Path) -> Iterable[np.ndarray]:
    """Yield frames of the part that is shown, 12 a second, uint8 RGB, small."""
    with av.open(str(clip)) as container:
        due_s = START_S
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= due_s:
                yield frame.reformat(WIDTH, HEIGHT, "rgb24", interpolation="AREA").to_ndarray()
                due_s += 1 / FPS
            if due_s >= START_S + SECONDS:
                return


def write_small(path: Path, frames: Iterable[np.ndarray], crf: int) -> None:
    """Write frames (height, width, 3) as H.264 that every browser plays."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryslow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    sys.exit(main())
