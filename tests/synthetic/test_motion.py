import pytest
import torch
from torch.nn import functional

from dcgrid.synthetic.animation import SpriteMotion, camera_move, composite_sprite

NO_SHADOW = SpriteMotion(shadow=0.0)
SEEDS = range(6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc_sprite(frames: int = 4, size: int = 64) -> torch.Tensor:
    """A red disc; its transparent surroundings are bright green underneath."""
    at = torch.linspace(-1, 1, size)
    alpha = (torch.hypot(at[:, None], at[None]) < 0.9).float()
    red, green = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    rgb = alpha * red[:, None, None] + (1 - alpha) * green[:, None, None]
    return torch.cat((rgb, alpha[None]))[None].repeat(frames, 1, 1, 1)


def middle_of(alpha_1THW: torch.Tensor) -> torch.Tensor:
    """Centre of mass of each frame as (row, column), shape T2."""
    alpha = alpha_1THW[0]
    rows = torch.arange(alpha.shape[1]) + 0.5
    columns = torch.arange(alpha.shape[2]) + 0.5
    total = alpha.sum(dim=(1, 2))
    return torch.stack(
        ((alpha.sum(2) * rows).sum(1) / total, (alpha.sum(1) * columns).sum(1) / total), dim=1
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [(96, 96), (64, 112), (112, 64)])
def test_sprite_is_over_the_background_and_nowhere_else(seed: int, size: tuple[int, int]):
    background = torch.rand((3, 6, *size), generator=seeded(9))
    clip, alpha = composite_sprite(
        background, disc_sprite(), motion=NO_SHADOW, generator=seeded(seed)
    )
    assert clip.shape == background.shape
    assert alpha.shape == (1, 6, *size)
    outside = (alpha == 0).expand_as(clip)
    assert torch.equal(clip[outside], background[outside])
    inside = alpha[0] > 0.9999
    assert inside.any()
    assert clip[0][inside].min() > 0.999
    assert clip[1][inside].max() < 0.001


def test_hidden_colour_never_shows():
    red = torch.zeros((3, 5, 80, 80))
    red[0] = 1
    for seed in SEEDS:
        clip, _ = composite_sprite(red, disc_sprite(), motion=NO_SHADOW, generator=seeded(seed))
        assert torch.allclose(clip, red, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_size_keeps_to_its_range_and_the_path_is_smooth(seed: int):
    background = torch.zeros((3, 17, 96, 128))
    _, alpha = composite_sprite(background, disc_sprite(17), generator=seeded(seed))
    height = (alpha[0].amax(dim=2) > 0.5).sum(dim=1).float()
    assert (height <= 0.9 * 96 + 2).all()
    assert (height >= 0.35 * 96 * 0.9 - 12).all()  # a tenth of it may be out of the picture
    place = middle_of(alpha)
    speed = place[1:] - place[:-1]
    assert speed.abs().max() < 6
    assert (speed[1:] - speed[:-1]).abs().max() < 1.5


def test_paths_differ_by_seed_and_repeat_with_it():
    background = torch.zeros((3, 9, 96, 96))
    places = [
        middle_of(composite_sprite(background, disc_sprite(), generator=seeded(seed))[1])
        for seed in SEEDS
    ]
    again = middle_of(composite_sprite(background, disc_sprite(), generator=seeded(0))[1])
    assert torch.equal(places[0], again)
    assert (torch.stack(places).std(dim=0) > 2).any()
    assert any((place[0] - place[-1]).norm() > 3 for place in places)


def test_mirroring_swaps_left_and_right():
    sprite = disc_sprite()
    sprite[:, 2, :, :32] = 1.0  # the left half is also blue
    for chance, left_is_blue in ((0.0, True), (1.0, False)):
        motion = SpriteMotion(mirror_chance=chance, turn=0.0, shadow=0.0)
        clip, alpha = composite_sprite(
            torch.zeros((3, 2, 96, 96)), sprite, motion=motion, generator=seeded(3)
        )
        middle = int(middle_of(alpha)[0, 1])
        blue = clip[2, 0]
        assert (blue[:, :middle].sum() > blue[:, middle:].sum()) == left_is_blue


def test_shadow_darkens_the_ground_near_the_foot_only():
    background = torch.full((3, 3, 96, 96), 0.8)
    motion = SpriteMotion(turn=0.0, scale=(0.4, 0.4), growth=0.0)
    clip, alpha = composite_sprite(background, disc_sprite(), motion=motion, generator=seeded(1))
    loss = ((background - clip) * (alpha == 0)).mean(dim=0)[0]
    assert loss.max() > 0.05
    row = int(loss.sum(dim=1).argmax())
    foot = int(torch.nonzero(alpha[0, 0].amax(dim=1) > 0.5)[-1])
    assert abs(row - foot) < 8
    assert loss[: max(0, foot - 30)].max() < 0.02


def test_short_loops_repeat_and_empty_sprites_change_nothing():
    background = torch.rand((3, 7, 48, 48), generator=seeded())
    clip, alpha = composite_sprite(background, disc_sprite(2), generator=seeded())
    assert clip.shape[1] == alpha.shape[1] == 7
    empty = torch.zeros((3, 4, 32, 20))
    clip, alpha = composite_sprite(background, empty, generator=seeded())
    assert torch.equal(clip, background)
    assert alpha.max() == 0


def ramp_picture(rows: int, columns: int) -> torch.Tensor:
    """Channel 0 is the column, channel 1 the row, both from 0 to 1."""
    y = ((torch.arange(rows) + 0.5) / rows)[:, None].expand(rows, columns)
    x = ((torch.arange(columns) + 0.5) / columns)[None].expand(rows, columns)
    return torch.stack((x, y, torch.zeros_like(x)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (120, 500)])
def test_camera_shows_an_undistorted_part_of_the_picture(seed: int, shape: tuple[int, int]):
    """Of a ramp, every view is a plane; its slopes give zoom and turn, equal along both axes."""
    size = (48, 64)
    clip = camera_move(ramp_picture(*shape), 5, size, seeded(seed), still_chance=0.0)
    assert clip.shape == (3, 5, *size)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    terms = torch.stack((x.flatten(), y.flatten(), torch.ones(48 * 64)), dim=1)
    inner = slice(4, -4)  # the edge of the picture is repeated by the bicubic filter
    for frame in range(5):
        fits = []
        for channel, extent in ((0, shape[1]), (1, shape[0])):
            values = clip[channel, frame].flatten()[:, None]
            slopes = torch.linalg.lstsq(terms, values).solution
            residual = (terms @ slopes - values).reshape(size)[inner, inner].abs().max()
            assert residual < 0.004
            fits.append(slopes[:2, 0] * extent)
        (xx, xy), (yx, yy) = fits
        assert torch.allclose(xx, yy, rtol=0.03)
        assert torch.allclose(xy, -yx, atol=0.03 * float(yy))
        assert abs(xy / xx) < 0.075  # four degrees


def test_camera_sometimes_stands_still():
    picture = torch.rand((3, 90, 130), generator=seeded(5))
    still = camera_move(picture, 4, (32, 48), seeded(), still_chance=1.0)
    assert torch.equal(still[:, 0], still[:, 3])
    moving = camera_move(picture, 4, (32, 48), seeded(), still_chance=0.0)
    assert not torch.allclose(moving[:, 0], moving[:, 3], atol=0.01)
    assert torch.equal(moving, camera_move(picture, 4, (32, 48), seeded(), still_chance=0.0))


def test_camera_does_not_alias():
    """A one-pixel chequerboard seen from far is even grey."""
    board = ((torch.arange(512)[:, None] + torch.arange(512)[None]) % 2).float()
    for seed in SEEDS:
        clip = camera_move(board.expand(3, -1, -1), 3, (48, 48), seeded(seed))
        assert clip.std() < 0.02
        assert (clip.mean() - 0.5).abs() < 0.01


def test_camera_keeps_detail():
    """Shrunk plainly to the view's scale, the picture is about as sharp as the view."""
    picture = torch.rand((1, 3, 40, 40), generator=seeded(2))
    picture = functional.interpolate(picture, size=(400, 400), mode="bilinear")[0]
    sharp = functional.interpolate(picture[None], size=(96, 96), mode="area")[0]
    for seed in SEEDS:
        clip = camera_move(picture, 3, (96, 96), seeded(seed))
        assert clip.std() > 0.9 * sharp.std()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="background"):
        composite_sprite(torch.zeros(3, 8, 8), disc_sprite(), generator=seeded())
    with pytest.raises(ValueError, match="sprite"):
        composite_sprite(torch.zeros(3, 2, 8, 8), disc_sprite()[:, :3], generator=seeded())
    with pytest.raises(ValueError, match="0 frames"):
        camera_move(torch.zeros(3, 8, 8), 0, (8, 8), seeded())
