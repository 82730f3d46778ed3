"""High dynamic range: against the figures that the standards print, and zimg through ffmpeg."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgrid.video.hdr import HLG, KNEE, PQ, REFERENCE_WHITE, roll_off, to_light, to_standard
from tests.tools import MISSING


# BT.2408, table 1: nits and signal in percent of reference levels; BT.2100: ends of the ranges.
@pytest.mark.parametrize(
    ("transfer", "signal", "nits", "rel"),
    [
        (PQ, 0.0, 0, 0),
        (PQ, 0.38, 26, 0.05),  # grey card
        (PQ, 0.58, 203, 0.02),  # reference white
        (PQ, 1.0, 10_000, 1e-3),
        (HLG, 0.0, 0, 0),
        (HLG, 0.38, 26, 0.05),
        (HLG, 0.75, 203, 0.02),
        (HLG, 1.0, 1000, 1e-3),
    ],
)
def test_light_of_reference_levels(transfer: str, signal: float, nits: float, rel: float) -> None:
    light_HWC = to_light(torch.full((1, 1, 3), signal).double(), transfer)
    assert light_HWC[0, 0].tolist() == pytest.approx([nits] * 3, rel=rel, abs=1e-6)


def _has_zscale() -> bool:
    if shutil.which("ffmpeg") is None:
        return False
    listed = subprocess.run(["ffmpeg", "-filters"], capture_output=True, text=True, check=False)
    return " zscale " in listed.stdout


@pytest.mark.skipif(not _has_zscale(), reason=f"{MISSING}ffmpeg with zscale")
@pytest.mark.parametrize(("primaries", "name"), [(9, "bt2020"), (12, "smpte432")])
def test_pq_and_gamut_equal_zimg(tmp_path: Path, primaries: int, name: str) -> None:
    """Below the knee our result is plain light, so zimg's linear light is what must come out."""
    generator = torch.Generator().manual_seed(3)
    signal_HWC = 0.10 + 0.33 * torch.rand(16, 24, 3, generator=generator)
    stored = (signal_HWC * 65_535).round().to(torch.int32).numpy().astype("<u2")
    raw = tmp_path / "signal.rgb"
    raw.write_bytes(stored.tobytes())
    chain = (
        f"zscale=matrixin=gbr:transferin=smpte2084:primariesin={name}:rangein=full:matrix=gbr"
        f":transfer=linear:primaries=bt709:range=full:npl={REFERENCE_WHITE:.0f},format=gbrpf32le"
    )
    command = ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", "24x16",
               "-i", str(raw), "-vf", chain, "-f", "rawvideo", "-"]  # fmt: skip
    out = subprocess.run(command, capture_output=True, check=True).stdout
    green, blue, red = np.frombuffer(out, "<f4").reshape(3, 16, 24)
    light_HWC = torch.from_numpy(np.stack([red, green, blue], -1))
    assert light_HWC.max() < KNEE
    ours_HWC = to_standard(torch.from_numpy(stored.astype("f4")) / 65_535, PQ, primaries)
    gap_HWC = ours_HWC - light_HWC.clamp(0, 1) ** (1 / 2.4)
    # Where a colour lies outside BT.709 a channel is 0 or nearly so: the root blows up rounding.
    assert gap_HWC[light_HWC > 2e-3].abs().max() < 2e-3
    assert (light_HWC > 2e-3).float().mean() > 0.7


def test_highlights_roll_off_without_a_kink() -> None:
    light = torch.linspace(0, 12, 4001).double()
    shown = roll_off(light)
    assert torch.equal(shown[light <= KNEE], light[light <= KNEE])
    slope = shown.diff() / light.diff()
    assert (slope >= 0).all()
    assert slope.diff().abs().max() < 0.03, "no jump of the slope"
    assert shown.max() == 1
    assert roll_off(torch.tensor(1.0)).item() == pytest.approx(0.753, abs=0.002)


def test_grey_stays_grey_and_orange_orange() -> None:
    for transfer in (PQ, HLG):
        for primaries in (1, 2, 9, 12):
            grey = to_standard(torch.full((1, 1, 3), 0.6), transfer, primaries)[0, 0]
            assert (grey - grey[0]).abs().max() < 1e-3
    signal = torch.tensor([[[0.95, 0.80, 0.30]]])
    plain = to_light(signal, HLG)[0, 0]
    shown = to_standard(signal, HLG, 1)[0, 0] ** 2.4
    torch.testing.assert_close(shown / shown[0], plain / plain[0])


def test_an_unknown_transfer_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="log-c"):
        to_standard(torch.zeros(1, 1, 3), "log-c", 9)
