"""Another frame rate: the length stays, and pieces give what the whole gives."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from dcgrid.video.resample import resample_frames, resample_pieces, resampled_count

RATES = [(12, 24), (24, 12), (12, 30), (30, 12), (12, 5), (12, 12), (25, Fraction(30000, 1001)),
         (Fraction(24000, 1001), 24), (12, 0.5), (10, 144), (8.7, 3.3)]  # fmt: skip


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("length", [1, 2, 7, 16, 33, 40])
def test_resampled_pieces_are_the_resampled_whole(
    rates: tuple[Fraction, Fraction], length: int
) -> None:
    frames_TH = torch.arange(33)[:, None].expand(-1, 2)
    whole_TH = resample_frames(frames_TH, *rates)
    pieces = list(resample_pieces(frames_TH.split(length), 33, *rates))
    assert torch.cat(pieces).equal(whole_TH)
    assert resampled_count(33, *rates) == len(whole_TH)
    assert all(len(piece) for piece in pieces)
    most = math.ceil(length * Fraction(rates[1]) / Fraction(rates[0])) + 1
    assert max(len(piece) for piece in pieces) <= most  # a piece stays a piece


@pytest.mark.parametrize("promised", [32, 34])
def test_resampled_pieces_are_counted(promised: int) -> None:
    pieces = torch.arange(33).split(7)
    with pytest.raises(ValueError, match=f"{promised} frames were promised"):
        list(resample_pieces(pieces, promised, 12, 24))
    for bad in ((0, 12, 24), (33, 0, 24), (33, 12, -1)):
        with pytest.raises(ValueError, match="cannot resample"):
            resample_pieces(pieces, *bad)


@pytest.mark.parametrize(
    ("fps_in", "fps_out", "duration_s"),
    [(12, 24, None), (12, 30, None), (12, 8, None), (12, Fraction(30000, 1001), 2.75), (12, 5, 1)],
)
def test_resampling_keeps_the_length(
    fps_in: int, fps_out: Fraction, duration_s: float | None
) -> None:
    frames_T = torch.arange(33)
    out_T = resample_frames(frames_T, fps_in, fps_out, duration_s)
    seconds = 33 / 12 if duration_s is None else duration_s
    assert abs(len(out_T) / fps_out - seconds) <= 0.5 / fps_out + 1e-9
    moments = (np.arange(len(out_T)) + 0.5) / float(fps_out)
    assert np.array_equal(out_T.numpy(), np.minimum(32, np.floor(moments * fps_in + 1e-9)))


def test_resampling_holds_the_last_frame() -> None:
    assert resample_frames(torch.arange(3), 10, 10, 0.6).tolist() == [0, 1, 2, 2, 2, 2]
