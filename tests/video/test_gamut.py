"""Other primaries and transfers than bt709's, against FFmpeg's zscale filter (zimg)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from dcgrid.video.read import decode_all, probe

_SPEC = importlib.util.spec_from_file_location(
    "ffmpeg_oracle", Path(__file__).with_name("ffmpeg_oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)
pytestmark = oracle.needs_ffmpeg

PRIMARIES = ("bt470m", "film", "bt2020", "smpte428", "smpte431", "smpte432")
NEAR = ("bt470bg", "smpte170m", "smpte240m")
ALIKE = ("bt709", "smpte170m", "smpte240m", "bt2020-10")
CURVES = ("gamma22", "gamma28", "linear", "log100", "log316")


def tagged(path: Path, primaries: str, transfer: str) -> Path:
    """A colourful picture with these tags, stored without loss."""
    matrix = "bt2020" if primaries == "bt2020" else "bt601"
    oracle.run(
        "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=5:d=0.2",
        "-vf", f"scale=out_color_matrix={matrix}:out_range=tv,format=yuv444p", "-c:v", "ffv1",
        "-colorspace", "bt2020nc" if matrix == "bt2020" else "bt470bg", "-color_range", "tv",
        "-color_primaries", primaries, "-color_trc", transfer, path,
    )  # fmt: skip
    return path


def gap_db(path: Path, filters: str) -> float:
    """PSNR of our first frame against ffmpeg's."""
    ours_HWC = next(iter(decode_all(path)))[1].numpy()
    raw = oracle.run("ffmpeg", "-v", "error", "-i", path, "-vf", filters, "-f", "rawvideo",
                     "-pix_fmt", "rgb24", "-")  # fmt: skip
    theirs_HWC = np.frombuffer(raw, np.uint8).reshape(ours_HWC.shape)
    error = np.square(theirs_HWC.astype(float) - ours_HWC).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize(
    ("primaries", "transfer"),
    [
        *((name, "bt709") for name in PRIMARIES),
        *(("bt709", name) for name in CURVES),
        ("bt2020", "bt2020-10"),
        ("smpte432", "gamma22"),
    ],
)
def test_colours_are_converted_as_zimg_converts_them(
    tmp_path: Path, primaries: str, transfer: str
) -> None:
    path = tagged(tmp_path / "a.mkv", primaries, transfer)
    right = gap_db(path, "zscale=p=bt709:t=bt709:m=gbr:r=pc,format=gbrp,format=rgb24")
    assert right > 38
    stored = "bt2020" if primaries == "bt2020" else "bt601"
    assert gap_db(path, f"scale=in_color_matrix={stored},format=rgb24") < right - 10
    (line,) = [line for line in probe(path).warnings if "converted to bt709" in line]
    assert all(name in line for name in {primaries, transfer} - {*ALIKE} | {primaries} - {"bt709"})


@pytest.mark.parametrize(
    ("primaries", "transfer"),
    [*(("bt709", name) for name in (*ALIKE, "iec61966-2-1")), *((name, "bt709") for name in NEAR)],
)
def test_what_players_show_alike_is_left_as_it_is(
    tmp_path: Path, primaries: str, transfer: str
) -> None:
    path = tagged(tmp_path / "a.mkv", primaries, transfer)
    assert gap_db(path, "scale=in_color_matrix=bt601:flags=accurate_rnd+full_chroma_int") > 45
    said = [line for line in probe(path).warnings if "not converted" in line]
    assert len(said) == (primaries in NEAR or transfer == "iec61966-2-1")
