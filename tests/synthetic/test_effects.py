from itertools import combinations

import pytest
import torch
from torch.nn import functional

from dcgrid.synthetic.effects import DETERMINISTIC, EFFECT_NAMES, render_effect

RANDOM = sorted(set(EFFECT_NAMES) - DETERMINISTIC)
ANIMATED = {*RANDOM, "underwater"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def real_like_clip(frames: int = 5, rows: int = 96, columns: int = 96) -> torch.Tensor:
    """Coloured cloud texture, lit from above, with a bright disc on a dark one passing through."""
    coarse = torch.rand((1, 3, 7, 7), generator=seeded(11))
    fine = torch.rand((1, 3, 25, 25), generator=seeded(12))
    size = (rows, columns)
    scene = sum(
        weight * functional.interpolate(part, size=size, mode="bicubic", align_corners=True)
        for weight, part in ((0.7, coarse), (0.3, fine))
    )
    y = torch.linspace(0, 1, rows)[:, None]
    x = torch.linspace(0, 1, columns)[None] * columns / rows
    clip = []
    for frame in range(frames):
        away = torch.hypot(y - 0.5, x - 0.4 - 0.02 * frame)
        body, core = torch.sigmoid((0.26 - away) * 60), torch.sigmoid((0.12 - away) * 60)
        picture = scene[0] * (1.1 - 0.4 * y)
        picture = picture * (1 - body) + body * torch.tensor([0.25, 0.15, 0.1])[:, None, None]
        picture = picture * (1 - core) + core * torch.tensor([0.9, 0.75, 0.6])[:, None, None]
        clip.append(picture)
    return torch.stack(clip, dim=1).clamp(0, 1)


def still_clip(frames: int = 4) -> torch.Tensor:
    return real_like_clip(1).expand(-1, frames, -1, -1).contiguous()


def test_the_sixteen_effects_are_named_once():
    assert len(EFFECT_NAMES) == len(set(EFFECT_NAMES)) == 16
    assert set(EFFECT_NAMES) >= DETERMINISTIC
    assert len(DETERMINISTIC) == 9


@pytest.mark.parametrize("name", EFFECT_NAMES)
@pytest.mark.parametrize("size", [(96, 96), (64, 96), (97, 61), (8, 8)])
def test_result_is_a_clip_like_the_input(name: str, size: tuple[int, int]):
    clip = real_like_clip(3, *size)
    before = clip.clone()
    rendered = render_effect(name, clip, generator=seeded())
    assert rendered.shape == clip.shape
    assert rendered.dtype == clip.dtype
    assert rendered.isfinite().all()
    assert rendered.min() >= 0
    assert rendered.max() <= 1
    assert torch.equal(clip, before)


@pytest.mark.parametrize("name", EFFECT_NAMES)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_clips_stay_finite_and_half_precision_is_kept(name: str, level: float):
    clip = torch.full((3, 1, 32, 48), level, dtype=torch.bfloat16)
    rendered = render_effect(name, clip, generator=seeded())
    assert rendered.dtype == torch.bfloat16
    assert rendered.isfinite().all()


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
def test_deterministic_effects_ignore_the_generator(name: str):
    generator = seeded(1)
    state = generator.get_state()
    first = render_effect(name, real_like_clip(), generator=generator)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(first, render_effect(name, real_like_clip(), generator=seeded(2)))


@pytest.mark.parametrize("name", RANDOM)
def test_random_effects_follow_the_seed(name: str):
    clip = real_like_clip()
    first = render_effect(name, clip, generator=seeded(1))
    assert torch.equal(first, render_effect(name, clip, generator=seeded(1)))
    other = render_effect(name, clip, generator=seeded(2))
    assert (first - other).abs().mean() > 0.002


def test_every_effect_is_plain_to_see_and_like_no_other():
    clip = real_like_clip()
    looks = {name: render_effect(name, clip, generator=seeded()) for name in EFFECT_NAMES}
    for name, rendered in looks.items():
        assert (rendered - clip).abs().mean() > 0.04, name
    for first, second in combinations(EFFECT_NAMES, 2):
        assert (looks[first] - looks[second]).abs().mean() > 0.04, (first, second)


@pytest.mark.parametrize("name", EFFECT_NAMES)
def test_a_still_scene_moves_only_where_the_effect_does(name: str):
    rendered = render_effect(name, still_clip(), generator=seeded())
    change = (rendered[:, 1:] - rendered[:, :-1]).abs().mean()
    if name in ANIMATED:
        assert change > 0.001
    else:
        assert change == 0


@pytest.mark.parametrize("name", EFFECT_NAMES)
def test_the_scene_stays_legible(name: str):
    """The picture's own detail still shows: its fine structure and the result's agree in sign."""
    clip = real_like_clip(1)
    rendered = render_effect(name, clip, generator=seeded())

    def detail(picture: torch.Tensor) -> torch.Tensor:
        grey = picture.mean(dim=0)[None]
        return (grey - functional.avg_pool2d(grey, 25, 1, 12, count_include_pad=False)).flatten()

    agreement = functional.cosine_similarity(detail(clip), detail(rendered), dim=0)
    assert agreement > 0.35


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(-10 * torch.log10((first - second).square().mean()))


@pytest.mark.parametrize("name", EFFECT_NAMES)
@pytest.mark.parametrize("size", [(96, 160), (160, 96), (128, 128)])
def test_a_cell_shows_what_four_times_its_size_shows(name: str, size: tuple[int, int]):
    rows, columns = size
    large = real_like_clip(5, 4 * rows, 4 * columns)
    small = functional.interpolate(large, size=size, mode="area")
    at_large = render_effect(name, large, generator=seeded(3), scale=4)
    at_small = render_effect(name, small, generator=seeded(3))
    shrunk = functional.interpolate(at_large, size=size, mode="area")
    assert psnr(shrunk, at_small) >= 35
    assert (at_small - small).abs().mean() > 0.03  # there is an effect to compare


@pytest.mark.parametrize("name", EFFECT_NAMES)
def test_every_second_frame_of_twice_the_rate_is_the_same(name: str):
    slow = real_like_clip(9)
    fast = slow.repeat_interleave(2, dim=1)[:, :17]
    at_12 = render_effect(name, slow, generator=seeded(3), fps=12)
    at_24 = render_effect(name, fast, generator=seeded(3), fps=24)
    torch.testing.assert_close(at_24[:, ::2], at_12, rtol=0, atol=1e-4)
    if name in ANIMATED:
        assert not torch.allclose(at_24[:, 3], at_24[:, 2], atol=1e-3)


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
def test_small_changes_of_the_picture_stay_small(name: str):
    """No hard thresholds: a network can learn the mapping."""
    clip = real_like_clip(2)
    nudge = 0.004 * torch.sign(torch.rand(clip.shape, generator=seeded()) - 0.5)
    moved = render_effect(name, (clip + nudge).clamp(0, 1), generator=seeded())
    change = (moved - render_effect(name, clip, generator=seeded())).abs()
    assert change.max() < 0.03


@pytest.mark.parametrize(("name", "fps"), [("rain", 48.0), ("snow", 12.0)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rain_and_snow_fall(name: str, fps: float, seed: int):
    """The shift that best matches a frame with the next one points down."""
    plain = torch.full((3, 6, 96, 96), 0.3)
    grey = render_effect(name, plain, generator=seeded(seed), fps=fps).mean(dim=0)
    fine = grey - grey.mean(dim=0)
    scores = {}
    for down in range(-9, 10):
        for right in range(-4, 5):
            moved = fine[:-1].roll((down, right), dims=(1, 2))[:, 12:-12, 12:-12]
            scores[down, right] = float((moved * fine[1:, 12:-12, 12:-12]).sum())
    best_down, _ = max(scores, key=scores.__getitem__)
    assert best_down > 0


def test_streaks_of_rain_are_thin_and_long_at_the_size_of_a_source():
    """Two pixels to the side of a streak little of it is left, as far along it most of it is."""
    plain = torch.full((3, 1, 384, 384), 0.2)
    grey = render_effect("rain", plain, generator=seeded(4), scale=4).mean(dim=0)[0]
    fine = grey - functional.avg_pool2d(grey[None], 61, 1, 30, count_include_pad=False)[0]
    energy = fine.square().mean()
    beside = (fine[:, 2:] * fine[:, :-2]).mean() / energy
    along = (fine[8:] * fine[:-8]).mean() / energy
    assert beside < 0.4
    assert along > 0.4


def test_a_matte_keeps_smoke_behind_the_subject_and_lights_its_rim():
    clip = torch.full((3, 2, 96, 96), 0.4)
    matte = torch.zeros(2, 96, 96)
    matte[:, 24:, 32:64] = 1
    core = (slice(None), slice(None), slice(40, 70), slice(40, 56))
    rim = (slice(None), slice(None), slice(24, 26), slice(36, 60))
    for name in ("smoke", "purple-smoke"):
        plain = render_effect(name, clip, generator=seeded(1), matte_THW=torch.zeros_like(matte))
        kept = render_effect(name, clip, generator=seeded(1), matte_THW=matte)
        assert torch.equal(plain[..., :30], kept[..., :30])
        assert kept[core].std() < 0.7 * plain[core].std()
    lit = render_effect("backlight", clip, generator=seeded(1), matte_THW=matte)
    assert lit[rim].mean() > 1.5 * lit[core].mean()
    assert lit[core].mean() > 0.15
    # Before a bright wall the sun stands in the same place, whether or not the matte is known.
    wall = torch.where(matte > 0, 0.2, 0.95).expand(3, -1, -1, -1)
    for known in (matte, None):
        made = render_effect("backlight", wall, generator=seeded(1), matte_THW=known)
        top_W = made[:, 0, :12].mean((0, 1))
        assert top_W[42:54].min() > max(top_W[:12].max(), top_W[-12:].max())
    with pytest.raises(ValueError, match="matte"):
        render_effect("smoke", clip, generator=seeded(1), matte_THW=matte[:1])


@pytest.mark.parametrize(("name", "channel"), [("red-light", 0), ("blue-light", 2)])
def test_stage_light_has_its_colour(name: str, channel: int):
    rendered = render_effect(name, real_like_clip(), generator=seeded())
    means = rendered.mean(dim=(1, 2, 3))
    others = [float(mean) for index, mean in enumerate(means) if index != channel]
    assert means[channel] > 1.8 * max(others)


def test_noir_is_grey_and_night_is_dark_and_blue():
    clip = real_like_clip()
    noir = render_effect("noir", clip, generator=seeded())
    assert torch.equal(noir[0], noir[2])
    night = render_effect("night", clip, generator=seeded())
    assert night.mean() < 0.45 * clip.mean()
    assert night[2].mean() > night[0].mean() * 1.4


def test_water_leaves_the_upper_part_alone_but_for_its_light():
    clip = real_like_clip()
    rendered = render_effect("water", clip, generator=seeded())
    above = slice(0, 44)
    assert (rendered[:, :, above] / clip[:, :, above].clamp(min=0.02)).std() < 0.08
    assert (rendered - clip)[:, :, 60:].abs().mean() > 0.08


def test_wrong_arguments_are_refused():
    clip = real_like_clip(2)
    with pytest.raises(ValueError, match="unknown effect 'hail'"):
        render_effect("hail", clip, generator=seeded())
    with pytest.raises(ValueError, match="shape"):
        render_effect("fog", clip.transpose(0, 1), generator=seeded())
    with pytest.raises(ValueError, match="shape"):
        render_effect("fog", (clip * 255).to(torch.uint8), generator=seeded())
    with pytest.raises(ValueError, match="fps"):
        render_effect("fog", clip, generator=seeded(), fps=0)
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        render_effect("fog", clip, generator=seeded(), scale=0)
