"""Stories told from files, as several benchmarks need them."""

from pathlib import Path

import pytest
import torch

from benchmarks.stories import given_clip, tell_scenes
from dcgrid.errors import RecipeError


def test_a_story_comes_back_scene_by_scene(clip: Path) -> None:
    scenes = tell_scenes(clip, ["rain", "night"], seed=0, model="tiny")
    given_THWC = given_clip(clip, "tiny").frames_THWC
    shape = tuple(given_THWC.shape)
    assert [tuple(scene.shape) for scene in scenes] == [shape, shape]
    assert not torch.equal(*scenes)
    with pytest.raises(RecipeError, match="no-such"):
        tell_scenes(clip, ["no-such"], seed=0, model="tiny")
    assert [path.name for path in clip.parent.iterdir()] == [clip.name]
