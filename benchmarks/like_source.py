"""`python -m benchmarks.like_source`: has a result the size, times, length and sound of its source?

    source --- dcgrid edit --- result
      |                          |
      +------ ffprobe ----------+    size, frames, when each is on display
      +------ ffmpeg -----------+    sound: how far one is shifted against the other

FFmpeg's own tools do the looking, none of our code. Pixels do not matter here, so the smallest
model makes the results, whole clips, enlarged plainly; `--model mini --upsample guided` is the real
thing.

Letters: N samples.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.clips import CLIPS_DIR
from dcgrid.cli.main import main as dcgrid_main

CLIPS = (
    "asl_book.mkv", "asl_again.mkv", "asl_walk.mkv", "bigbuckbunny.mp4", "bikes.mp4",
    "carphone.mp4", "cockatoo.mp4", "cogvideo_kitten.mp4", "elf.webm", "flower.mp4", "flower.webm",
    "frog.webm", "greenscreen_man_cc0.mp4", "headpose_female.gif", "phone_white_dog_1080p_vfr.mp4",
    "rabbit320.mp4", "realshort.mp4", "sam2_dog.mp4", "stream_of_water.mp4", "stream_of_water.webm",
    "edge_mediabunny_cursed-vfr.mp4", "edge_mediabunny_rotate-buck-bunny.mp4",
    "shepard1906.ogv", "edge_mimetype_mov.mov", "edge_mimetype_ogg.ogv",
    "edge_mimetype_webm.webm", "edge_mjpeg_pcm_u8_face.avi", "edge_torchcodec_h264_10bits.mp4",
    "edge_torchcodec_bt709_full_range.mp4", "asl_eat.mkv",
)  # fmt: skip
"""Thirty clips: people, animals, streets, drawings, phones; odd rates, containers and formats."""
SOUND_RATE = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What FFmpeg says of a file."""

    size: tuple[int, int]
    """Width and height on display, turned as the file says."""
    times_s: tuple[float, ...]
    """When frames are on display, from the first on."""
    end_s: float
    """When the last one ends."""
    sound_N: np.ndarray
    """Sound from the first frame on, mono; empty: none."""


def look_at(path: Path) -> Seen:
    """Look at a file.

    Raises:
        subprocess.CalledProcessError: FFmpeg cannot read it.
    """
    entries = (
        "frame=best_effort_timestamp_time,duration_time,pkt_duration_time,width,height"
        ":stream=duration,sample_aspect_ratio:stream_side_data=rotation:format=duration"
    )
    found = json.loads(
        _output(
            "ffprobe", "-v", "error", "-select_streams", "v:0", "-show_frames",
            "-show_entries", entries, "-of", "json", str(path),
        )
    )  # fmt: skip
    stream, frames = found["streams"][0], found["frames"]
    width, height = frames[0]["width"], frames[0]["height"]  # a stream may say other ones
    across, down = (int(n) for n in stream.get("sample_aspect_ratio", "1:1").split(":"))
    if across and down:
        width = round(width * across / down)
    turns = [one["rotation"] for one in stream.get("side_data_list", ()) if "rotation" in one]
    if turns and turns[0] % 180:
        width, height = height, width
    stamps = sorted(float(one["best_effort_timestamp_time"]) for one in frames)
    lengths = [frames[-1].get(key, 0.0) for key in ("duration_time", "pkt_duration_time")]
    end_s = stamps[-1] - stamps[0] + max(map(float, lengths))
    sound_N = _sound(path, stamps[0])
    # Some versions do not say how long the last frame of an MP4 is on display; the stream's length
    # is counted in the order of storage, which is another one where rates vary.
    if not any(lengths):
        end_s = float((stream if len(sound_N) else found["format"]).get("duration", end_s))
    return Seen(
        size=(width, height),
        times_s=tuple(one - stamps[0] for one in stamps),
        end_s=end_s,
        sound_N=sound_N,
    )


def _sound(path: Path, start_s: float) -> np.ndarray:
    """Return the sound from a moment on, silence where there is none yet."""
    shift = f"asetpts=PTS-{start_s}/TB,aresample={SOUND_RATE}:async=1:first_pts=0"
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-copyts", "-i", str(path), "-map", "0:a:0?", "-af", shift,
         "-ac", "1", "-f", "f32le", "-"],
        capture_output=True, check=False,
    ).stdout  # fmt: skip
    return np.frombuffer(raw, dtype=np.float32)


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def sound_shift_s(source_N: np.ndarray, result_N: np.ndarray, most_s: float = 0.5) -> float:
    """Return by how many seconds the result's sound is late: where both agree best."""
    count = min(len(source_N), len(result_N), 30 * SOUND_RATE)
    spectra = (np.fft.rfft(one[:count], 2 * count) for one in (source_N, result_N))
    source_F, result_F = spectra
    alike = np.fft.irfft(result_F * source_F.conj())
    most = min(round(most_s * SOUND_RATE), count - 1)
    near = np.concatenate((alike[-most:], alike[: most + 1]))
    return (int(near.argmax()) - most) / SOUND_RATE


def differences(source: Seen, result: Seen) -> list[str]:
    """Return what a result has that its source has not, a few words each."""
    found = []
    even = tuple(side + side % 2 for side in source.size)
    if result.size != even:
        found.append(f"{result.size[0]}x{result.size[1]} in place of {even[0]}x{even[1]}")
    if len(result.times_s) != len(source.times_s):
        found.append(f"{len(result.times_s)} frames in place of {len(source.times_s)}")
    pairs = zip(source.times_s, result.times_s, strict=False)
    late_s = max(abs(one - other) for one, other in pairs)
    frame_s = source.end_s / max(1, len(source.times_s))
    if late_s > 0.002:
        found.append(f"times differ by up to {1000 * late_s:.1f} ms")
    if abs(result.end_s - source.end_s) > max(0.002, 0.5 * frame_s):
        found.append(f"{result.end_s:.3f} s in place of {source.end_s:.3f} s")
    if (len(source.sound_N) > 0) != (len(result.sound_N) > 0):
        found.append("sound on one side only")
    elif np.abs(source.sound_N).max(initial=0) > 0.001:
        shift_s = sound_shift_s(source.sound_N, result.sound_N)
        if abs(shift_s) > frame_s:
            found.append(f"sound {1000 * shift_s:+.0f} ms")
    return found


def edit(path: Path, out: Path, options: argparse.Namespace) -> tuple[Path, str]:
    """Edit a clip; returns the result, and what the command said."""
    words = ["edit", str(path), "--effect", "night", "--out", str(out), "--force", "--seed", "0"]
    words += ["--model", options.model, "--upsample", options.upsample]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = dcgrid_main(words)
    if code:
        lines = [one for one in said.getvalue().splitlines() if one.startswith("error")]
        return out, f"exit {code}: {lines[0] if lines else said.getvalue()[-200:]}"
    return out / f"{path.stem}.night.mp4", ""


def main() -> int:
    """Compare every result with its source; returns 1 if one differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="*", default=list(CLIPS), help="names of clips")
    parser.add_argument("--clips-dir", type=Path, default=CLIPS_DIR, help="where they are")
    parser.add_argument("--model", default="tiny", help="what makes the results (tiny)")
    parser.add_argument("--upsample", default="plain", choices=["plain", "guided"])
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.clips:
            path = options.clips_dir / name
            result, problem = edit(path, Path(folder), options)
            found = [problem]
            if not problem:
                source = look_at(path)
                found = differences(source, look_at(result))
                width, height = source.size
                name = (
                    f"{name} ({width}x{height}, {len(source.times_s)} frames, {source.end_s:.2f} s)"
                )
            wrong += bool(found)
            print(f"{name:76}{'; '.join(found) or 'the same'}", flush=True)
    print(f"{len(options.clips) - wrong} of {len(options.clips)} like their source")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
