"""Elements in the dark, and fusions that are functions of two clips alone."""

import pytest
import torch

from dcgrid.synthetic.fusion import BACKDROP, ELEMENTS, draw_element, fuse_around, fuse_lit

SIZES = [(48, 80), (80, 48), (64, 64)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def element(name, size=(96, 160), frames=17, seed=0):
    like = torch.zeros(3, frames, *size)
    return draw_element(name, like, torch.arange(frames) / 12, seeded(seed))


@pytest.mark.parametrize("name", ELEMENTS)
def test_an_element_is_light_that_moves_in_the_dark(name):
    clip = element(name)
    assert clip.shape == (3, 17, 96, 160)
    assert clip.min() >= 0
    assert clip.max() <= 1
    assert clip.max() > 0.5, "it can be seen"
    assert clip.median() < 0.45, "most of the clip is dark"
    assert (clip[:, 1:] - clip[:, :-1]).abs().mean() > 1e-4
    assert torch.equal(clip, element(name))
    assert not torch.equal(clip, element(name, seed=1))


@pytest.mark.parametrize("name", ELEMENTS)
@pytest.mark.parametrize("size", SIZES)
def test_it_can_be_drawn_at_every_size(name, size):
    assert element(name, size, frames=9).isfinite().all()


def test_elements_differ():
    looks = {name: element(name) for name in ELEMENTS}
    for first in looks:
        for second in looks:
            if first < second:
                assert (looks[first] - looks[second]).abs().mean() > 0.005, (first, second)


def test_an_unknown_element():
    with pytest.raises(ValueError, match="unknown element 'rocks'"):
        element("rocks")


@pytest.mark.parametrize("fuse", [fuse_around, fuse_lit])
@pytest.mark.parametrize("name", ELEMENTS)
def test_a_fusion_shows_both(fuse, name):
    scene = torch.rand(3, 9, 48, 80, generator=seeded(3)) * 0.8
    b = element(name, (48, 80), 9)
    fused = fuse(scene, b)
    assert fused.shape == scene.shape
    assert fused.min() >= 0
    assert fused.max() <= 1
    # Wherever the element is bright, the fusion is at least as bright.
    assert (fused >= b - 1e-6).all()
    dark = b.amax(0, keepdim=True).expand_as(b) < BACKDROP
    if dark.sum() > 500:  # and where it is dark, the scene can be read
        pair = torch.stack((fused[dark], scene[dark]))
        assert torch.corrcoef(pair)[0, 1] > 0.5


def test_the_element_lights_the_scene_in_its_own_colour():
    scene = torch.full((3, 2, 48, 80), 0.5)
    red = torch.zeros(3, 2, 48, 80)
    red[0, :, 16:32, 20:60] = 0.9
    black = torch.zeros_like(red)
    for fuse in (fuse_around, fuse_lit):
        gain = fuse(scene, red) - fuse(scene, black)
        beside = gain[:, :, 12:15, 30:50]
        assert beside[0].mean() > 0.03
        assert beside[1:].abs().max() < 1e-6
    assert fuse_lit(scene, black).mean() < fuse_around(scene, black).mean()
