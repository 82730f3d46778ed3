"""Clips of the world at the rate of a model."""

import pytest
import torch
from safetensors.torch import save_file

from dcgrid.synthetic import world_clips as clips_module
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips


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


@pytest.mark.parametrize("seed", range(6))
def test_a_matte_is_cut_and_turned_as_its_footage_is(tiny_store, tmp_path, monkeypatch, seed):
    """With the red of the footage as its matte, the clip's red is the clip's matte."""
    for name in ("_color_jitter", "_redressed"):
        monkeypatch.setattr(clips_module, name, lambda clip_CTHW, generator: clip_CTHW)
    for path in tiny_store.glob("*.safetensors"):
        (tmp_path / path.name).symlink_to(path)
    video_CTHW = WorldStore(tiny_store).get("footage", "walk.mp4")
    save_file({"walk.mp4": video_CTHW[0].clone()}, tmp_path / "mattes.safetensors")
    drawn = WorldClips(WorldStore(tmp_path), mix={"footage": 1.0}).draw(
        9, (32, 32), torch.Generator().manual_seed(seed)
    )
    assert torch.equal(drawn.matte_THW, drawn.clip_CTHW[0])
    bare = WorldClips(WorldStore(tiny_store), mix={"footage": 1.0}).draw(
        9, (32, 32), torch.Generator().manual_seed(seed)
    )
    assert bare.matte_THW is None
    assert torch.equal(bare.clip_CTHW, drawn.clip_CTHW)


def test_a_filmed_person_stands_before_another_place(tiny_store, tmp_path, monkeypatch):
    """White footage with a matte of its middle, before a black place, shows the matte."""
    for path in tiny_store.glob("*.safetensors"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "footage.safetensors").unlink()
    matte_THW = torch.zeros(9, 48, 64, dtype=torch.uint8)
    matte_THW[:, 12:, 20:44] = 255
    white = torch.full((3, 9, 48, 64), 255, dtype=torch.uint8)
    save_file({"walk.mp4": white}, tmp_path / "footage.safetensors")
    save_file({"walk.mp4": matte_THW}, tmp_path / "mattes.safetensors")
    for name in ("_color_jitter", "_redressed"):
        monkeypatch.setattr(clips_module, name, lambda clip_CTHW, generator: clip_CTHW)
    world = WorldClips(WorldStore(tmp_path), mix={"person": 1.0})
    monkeypatch.setattr(
        world, "draw_ground", lambda frames, size, generator: torch.zeros(3, frames, *size)
    )
    shares = []
    for seed in range(12):
        drawn = world.draw(9, (32, 32), torch.Generator().manual_seed(seed))
        shown_CTHW = drawn.matte_THW.expand(3, -1, -1, -1)
        assert torch.allclose(drawn.clip_CTHW, shown_CTHW, atol=1e-5)
        assert drawn.matte_THW[:, -1].amax() > 0.9  # stands on the lower edge
        shares.append(float(drawn.matte_THW.mean()))
    assert min(shares) > 0.02
    assert max(shares) > 2 * min(shares)  # some are smaller than filmed
    without = WorldClips(WorldStore(tiny_store)).draw(5, (32, 32), torch.Generator())
    assert without.clip_CTHW.shape == (3, 5, 32, 32)


def test_a_filmed_person_is_dressed_anew_but_moves_as_filmed():
    """Other colours, of one frame as of the next; what was alike below stays alike."""
    person_CTHW = torch.rand(3, 1, 24, 16, generator=torch.Generator().manual_seed(0))
    person_CTHW = person_CTHW.expand(3, 4, 24, 16)
    shown = [
        clips_module._redressed(person_CTHW, torch.Generator().manual_seed(seed))
        for seed in range(6)
    ]
    for one in shown:
        assert torch.equal(one[:, :1].expand_as(one), one)
        assert 0 <= one.min() <= one.max() <= 1
    assert min(float((one - person_CTHW).abs().mean()) for one in shown) > 0.02
    assert float((shown[0] - shown[1]).abs().mean()) > 0.05


def test_the_matte_of_a_sprite_is_where_it_hides_the_background(tiny_store):
    world = WorldClips(WorldStore(tiny_store))
    drawn = world.draw_subject(5, (64, 64), torch.Generator().manual_seed(1))
    assert drawn.matte_THW.shape == (5, 64, 64)
    assert 0.05 < drawn.matte_THW.mean() < 0.9
    assert drawn.matte_THW.max() == 1
