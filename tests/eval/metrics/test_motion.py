"""Motion and flicker, on motions that are known."""

import pytest
import torch

from dcgrid.eval.metrics import flicker, motion_agreement


def flow(*vectors, height=12, width=16):
    """A flow a pair, the same everywhere."""
    return torch.tensor(vectors, dtype=torch.float32)[:, None, None].expand(-1, height, width, 2)


def test_agreement_of_known_flows():
    right = flow((2, 0), (2, 0))
    assert motion_agreement(right, right).value == pytest.approx(1)
    assert motion_agreement(right, -right).value == pytest.approx(0)
    assert motion_agreement(right, 0 * right).value == pytest.approx(0)
    # Twice as fast: |2 - 4| / (2 + 4).
    assert motion_agreement(right, 2 * right).value == pytest.approx(2 / 3)
    turned = motion_agreement(flow((3, 0)), flow((0, 3))).value
    assert turned == pytest.approx(1 - 2**0.5 / 2)


def test_pairs_weigh_by_their_motion():
    source, result = flow((9, 0), (1, 0)), flow((9, 0), (-1, 0))
    score = motion_agreement(source, result)
    assert score.series == pytest.approx((1, 0))
    assert score.frames == (1, 2)
    assert score.value == pytest.approx(1 - 2 / 20)


def test_what_has_no_motion_has_no_score():
    assert motion_agreement(flow((0, 0)), flow((3, 0))).reason == "the source stands still"
    assert motion_agreement(flow((1, 0))[:0], flow((1, 0))[:0]).reason == "a single frame"
    paused = motion_agreement(flow((4, 0), (0, 0)), flow((4, 0), (0, 0)))
    assert paused.series == (1.0, None)
    broken = flow((float("nan"), 0), (1, 0))
    assert "not a number" in motion_agreement(flow((1, 0), (1, 0)), broken).reason
    with pytest.raises(ValueError, match="against"):
        motion_agreement(flow((1, 0)), flow((1, 0), (1, 0)))


def sliding(count=3, height=20, width=24, step=2):
    """A window that slides over a texture, so that its content moves left."""
    wide = torch.rand(height, width + step * count, 3, generator=torch.Generator().manual_seed(0))
    wide = (wide * 255).to(torch.uint8)
    frames = torch.stack([wide[:, step * t : step * t + width] for t in range(count)])
    pairs = flow(*[(-step, 0)] * (count - 1), height=height, width=width)
    return frames, pairs, -pairs


def test_what_moves_without_a_change_does_not_flicker():
    frames, forward, backward = sliding()
    assert flicker(frames, forward, backward).value == pytest.approx(0, abs=1e-3)
    still = torch.zeros_like(forward)
    assert flicker(frames, still, still).value > 30


def test_a_frame_that_is_brighter_flickers_by_as_much():
    frames, forward, backward = sliding()
    frames = (frames // 2).clone()
    frames[1] += 10
    score = flicker(frames, forward, backward)
    assert score.series == pytest.approx((10, 10), abs=1e-3)
    assert score.frames == (1, 2)


def test_what_is_hidden_does_not_count():
    frames, forward, backward = sliding(count=2)
    # Beyond the edge: the new columns at the right have no predecessor.
    frames[1, :, -2:] = 255 - frames[1, :, -2:]
    assert flicker(frames, forward, backward).value == pytest.approx(0, abs=1e-3)
    # Where the way there and back does not close, too.
    torn = forward.clone()
    torn[:, :5] = 7
    frames[1, :5] = 255 - frames[1, :5]
    assert flicker(frames, torn, backward).value == pytest.approx(0, abs=1e-3)
    lost = flicker(frames, forward + 9, backward)
    assert lost.reason == "no pixel could be followed"


def test_lengths_and_sizes():
    frames, forward, backward = sliding()
    assert flicker(frames[:1], forward[:0], backward[:0]).reason == "a single frame"
    assert flicker(frames[:0], forward[:0], backward[:0]).reason == "no frames"
    with pytest.raises(ValueError, match="flows"):
        flicker(frames, forward[:1], backward)
