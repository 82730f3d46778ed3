"""What several benchmarks need: elements that the world draws, and stories told from files."""

from pathlib import Path

import pytest
import torch

from benchmarks.elements import draw_like, to_pixels, to_unit, words_of
from benchmarks.stories import given_clip, tell_scenes
from dcgrid.errors import RecipeError
from dcgrid.synthetic.fusion import ELEMENTS, draw_element


def test_an_element_is_the_worlds_at_the_clips_size() -> None:
    clip_THWC = torch.randint(256, (7, 32, 48, 3), dtype=torch.uint8)
    drawn = [draw_like("fire", clip_THWC, 12, seed) for seed in (3, 3, 4)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    exact_CTHW = draw_element(
        "fire",
        clip_THWC.permute(3, 0, 1, 2) / 255,
        torch.arange(7) / 12,
        torch.Generator().manual_seed(3),
    )
    assert drawn[0].shape == clip_THWC.shape
    assert (drawn[0].permute(3, 0, 1, 2) / 255 - exact_CTHW).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(to_pixels(to_unit(clip_THWC)), clip_THWC)


def test_the_words_are_those_that_training_used() -> None:
    for name, element in ELEMENTS.items():
        words = words_of(name)
        assert words["concept"] in element.phrases
        assert words["concept_motion"] == element.motion


def test_a_story_comes_back_scene_by_scene(clip: Path) -> None:
    scenes = tell_scenes(clip, ["rain", "night"], seed=0, model="tiny")
    given_THWC = given_clip(clip, "tiny").frames_THWC
    shape = tuple(given_THWC.shape)
    assert [tuple(scene.shape) for scene in scenes] == [shape, shape]
    assert not torch.equal(*scenes)
    with pytest.raises(RecipeError, match="no-such"):
        tell_scenes(clip, ["no-such"], seed=0, model="tiny")
    assert [path.name for path in clip.parent.iterdir()] == [clip.name]
