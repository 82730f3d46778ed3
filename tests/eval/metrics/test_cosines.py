"""Metrics that are cosines of embeddings."""

import math

import pytest
import torch

from dcgrid.eval.metrics import clip_text, subject_similarity, temporal_coherence


def drifting(count=20, width=32, seed=0):
    """Embeddings of a video: a slow walk."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(count, width, generator=generator) * 0.2
    return torch.randn(width, generator=generator) + steps.cumsum(dim=0)


def test_clip_text_is_the_cosine_with_the_mean_of_unit_frames():
    frames = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    score = clip_text(torch.tensor([0.0, 7.0]), frames)
    # Unit frames (1, 0) and (0, 1) have the mean (1/2, 1/2), whatever their length was.
    assert score.value == pytest.approx(math.sqrt(0.5))
    assert score.series == pytest.approx((0.0, 1.0))
    assert score.frames == (0, 1)


def test_another_prompt_scores_less():
    frames = drifting()
    right, wrong = frames.mean(dim=0), drifting(seed=1).mean(dim=0)
    assert clip_text(right, frames).value > clip_text(wrong, frames).value + 0.3


def test_clip_text_against_an_independent_formula():
    frames, text = drifting(), torch.randn(32)
    unit = frames.double().numpy()
    unit = unit / (unit**2).sum(1, keepdims=True) ** 0.5
    mean, other = unit.mean(0), text.double().numpy()
    wanted = mean @ other / (mean @ mean) ** 0.5 / (other @ other) ** 0.5
    assert clip_text(text, frames).value == pytest.approx(float(wanted), abs=1e-6)


def test_coherence_is_the_mean_cosine_of_neighbours():
    frames = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, -1.0]])
    score = temporal_coherence(frames)
    assert score.series == pytest.approx((1.0, 0.0, -1.0))
    assert score.frames == (1, 2, 3)
    assert score.value == pytest.approx(0.0)


def test_shuffled_and_alternating_frames_are_less_coherent():
    frames, other = drifting(), drifting(seed=1)
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(3))
    alternating = torch.stack([frames, other], dim=1).flatten(0, 1)[: len(frames)]
    straight = temporal_coherence(frames).value
    assert temporal_coherence(frames[order]).value < straight - 0.01
    assert temporal_coherence(alternating).value < straight - 0.3


def test_subject_is_matched_over_frames():
    frames = drifting()
    assert subject_similarity(frames, frames).value == pytest.approx(1.0)
    reversed_ = subject_similarity(frames, frames.flip(0)).value
    assert reversed_ < 0.98
    # Every second frame, compared with the frame at the same relative time.
    half = subject_similarity(frames, frames[1::2])
    assert half.value == pytest.approx(1.0)
    assert len(half.series) == 10


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 0.0])
def test_what_is_no_direction_gives_a_reason_and_never_nan(broken):
    frames = drifting()
    frames[3] = broken
    for score in (
        clip_text(torch.ones(32), frames),
        temporal_coherence(frames),
        subject_similarity(frames, drifting()),
    ):
        assert score.value is None
        assert "not a number in" in score.reason
        assert None in score.series
    text = clip_text(torch.full((32,), broken), drifting())
    assert text.value is None
    assert text.reason


def test_one_frame_and_none():
    one, none = drifting(1), drifting(1)[:0]
    assert temporal_coherence(one).reason == "a single frame"
    assert temporal_coherence(none).reason == "no frames"
    assert clip_text(torch.ones(32), none).reason == "no frames"
    assert subject_similarity(none, one).reason == "no frames"
    assert subject_similarity(one, none).reason == "no frames"
    assert clip_text(one[0], one).value == pytest.approx(1.0)
