"""What the ffmpeg command (another build, another version than PyAV's) says of a file."""

import functools
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.tools import needs

CLIPS = Path(__file__).resolve().parents[2].parent / "shared" / "clips"
needs_ffmpeg = needs("ffmpeg", "ffprobe")
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")


_CHROMA_SITES = {
    "left": ":in_h_chr_pos=0:in_v_chr_pos=128",
    "topleft": ":in_h_chr_pos=0:in_v_chr_pos=0",
}


def run(*command: str | Path) -> bytes:
    done = subprocess.run([str(c) for c in command], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-500:]
    return done.stdout


def probe(path: Path, entries: str, *options: str) -> dict:
    command = ("ffprobe", "-v", "error", *options, "-show_entries", entries, "-of", "json", path)
    return json.loads(run(*command))


def frames(
    path: Path,
    size: tuple[int, int],
    *,
    count: int,
    matrix: str = "bt709",
    full: bool = False,
    alpha: bool = False,
    decoder: str = "",
) -> np.ndarray:
    """First frames as ffmpeg decodes, turns and converts them; over black where transparent."""
    reach = "pc" if full else "tv"
    # This ffmpeg's scale filter does not read where a file says its chroma samples sit.
    stream = next(s for s in streams(path) if s["index"] == best_stream(path))
    sited = _CHROMA_SITES.get(stream.get("chroma_location", ""), "")
    left = sited if "420" in stream["pix_fmt"] else ""
    if "422" in stream["pix_fmt"] and sited:
        left = ":in_h_chr_pos=0"
    scale = (
        f"scale=in_color_matrix={matrix}:in_range={reach}:out_range=pc{left}"
        ":flags=bicubic+accurate_rnd+full_chroma_int"
    )
    out = run(
        "ffmpeg", "-v", "error", *(["-c:v", decoder] if decoder else []), "-i", path,
        "-vf", scale, "-fps_mode", "passthrough", "-frames:v", str(count),
        "-pix_fmt", "rgba" if alpha else "rgb24", "-f", "rawvideo", "-",
    )  # fmt: skip
    flat = np.frombuffer(out, np.uint8).reshape(-1, *size, 4 if alpha else 3)
    if not alpha:
        return flat
    return np.round(flat[..., :3] * (flat[..., 3:] / 255.0)).astype(np.uint8)


def frame_times(path: Path, count: int) -> np.ndarray:
    """Times of the first frames of the best video stream, counted from the first."""
    found = probe(
        path,
        "frame=best_effort_timestamp_time",
        "-select_streams",
        f"{best_stream(path)}",
        "-read_intervals",
        f"%+#{count + 12}",
    )["frames"]
    times = np.array([float(f["best_effort_timestamp_time"]) for f in found])[:count]
    return times - times[0]


@functools.cache
def streams(path: Path) -> list[dict]:
    return probe(path, "stream=index,width,height,chroma_location,pix_fmt", "-select_streams", "v")[
        "streams"
    ]


def best_stream(path: Path) -> int:
    return max(streams(path), key=lambda s: s["width"] * s["height"])["index"]
