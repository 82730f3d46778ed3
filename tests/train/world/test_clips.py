"""Clips of the world at the rate of a model."""

import pytest
import torch

from dcgrid.train.world.clips import WorldClips
from dcgrid.train.world.store import WorldStore


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_footage_runs_at_the_speed_of_life_at_any_rate(tiny_store, seed):
    """At twice the rate each stored frame is on twice as many frames."""
    clips = []
    for rate, frames in ((12.0, 11), (24.0, 22)):
        world = WorldClips(WorldStore(tiny_store), rate=rate)
        generator = torch.Generator().manual_seed(seed)
        clips.append(world._footage(frames, (32, 32), generator))
    slow, fast = clips
    assert torch.equal(fast[:, ::2], slow)
    assert torch.equal(fast[:, 1::2], slow)


def test_a_rate_between_holds_frames_as_long_as_they_last(tiny_store):
    world = WorldClips(WorldStore(tiny_store), rate=16.0)
    stored = [world._stored(frame) for frame in range(9)]
    assert stored == [0, 0, 1, 2, 3, 3, 4, 5, 6]
    assert torch.allclose(world.seconds(3), torch.tensor([0.0, 1 / 16, 2 / 16]))


def test_the_usual_rate_changes_nothing(tiny_store):
    drawn = [
        WorldClips(WorldStore(tiny_store), **rate).draw(
            5, (32, 32), torch.Generator().manual_seed(7)
        )
        for rate in ({}, {"rate": 12.0})
    ]
    assert torch.equal(drawn[0].clip_CTHW, drawn[1].clip_CTHW)
