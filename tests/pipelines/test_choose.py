import pytest
import torch
from torch import Tensor

from dcgrid.pipelines.ranking import rank_tries, score_try


@pytest.fixture
def given_THWC() -> Tensor:
    """A soft random picture that drifts to the right, 8 frames of 96x96."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 12, 12, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (96, 96), mode="bilinear")[0]
    frames = [torch.roll(picture, 2 * index, dims=2) for index in range(8)]
    return (torch.stack(frames).permute(0, 2, 3, 1) * 255).to(torch.uint8)


def test_the_clip_itself_is_a_perfect_try(given_THWC: Tensor) -> None:
    score = score_try(given_THWC, given_THWC)
    assert score.structure == pytest.approx(1, abs=1e-4)
    assert score.flicker == 0


def test_darkening_keeps_structure_and_another_picture_does_not(given_THWC: Tensor) -> None:
    darker = (given_THWC.float() * 0.4).to(torch.uint8)
    other = given_THWC.flip(2)
    assert score_try(given_THWC, darker).structure > 0.95
    assert score_try(given_THWC, other).structure < 0.5


def test_flicker_is_counted(given_THWC: Tensor) -> None:
    dark = (given_THWC.float() * 0.5).to(torch.uint8)
    pumping = torch.where(torch.arange(8)[:, None, None, None] % 2 == 0, dark, given_THWC)
    assert score_try(given_THWC, pumping).flicker > 0.2
    assert score_try(given_THWC, dark).flicker < 0.01


def test_tries_are_ranked_and_ties_keep_their_order(given_THWC: Tensor) -> None:
    noise = torch.randint(0, 256, given_THWC.shape, dtype=torch.uint8)
    ranked = rank_tries(given_THWC, torch.stack([noise, given_THWC, given_THWC]))
    assert [index for index, _ in ranked] == [1, 2, 0]


def test_sizes_may_differ_and_one_frame_is_enough(given_THWC: Tensor) -> None:
    larger = given_THWC.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    assert score_try(given_THWC, larger).structure > 0.95
    assert score_try(given_THWC[:1], given_THWC[:1]).flicker == 0


def test_a_clip_of_one_colour_scores_zero() -> None:
    grey = torch.full((4, 32, 32, 3), 128, dtype=torch.uint8)
    assert score_try(grey, grey).structure == 0
