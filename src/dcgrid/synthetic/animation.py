"""Motion of the procedural world: animated subjects on backgrounds, camera moves over still photos.

Read `composite_sprite` and `camera_move`. A subject that is seen at several places is drawn once
(`draw_sprite`), moved (`PlacedSprite.moved`) and rendered at each (`render_sprite`).

Letters: C channels, T H W frames/height/width.
Pixel positions have their origin in the picture's middle, x to the right, y down.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from dcgrid.synthetic.effects_fields import uniform


@dataclass(frozen=True, slots=True, kw_only=True)
class SpriteMotion:
    """Ranges of the random path of a sprite; lengths are shares of the short side of the clip."""

    scale: tuple[float, float] = (0.35, 0.9)
    """Smallest and largest height of the sprite."""
    growth: float = 0.18
    """Largest relative change of the size from the first to the last frame."""
    travel: float = 0.30
    """Longest way of the middle of the sprite."""
    turn: float = 8.0
    """Largest lean to either side, in degrees."""
    mirror_chance: float = 0.5
    """How often left and right are swapped, 0 to 1."""
    shadow: float = 0.40
    """Largest darkness of the contact shadow, 0 to 1; 0 is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpritePath:
    """Where a sprite is on each frame."""

    x_T: torch.Tensor
    """Middle of the sprite, pixels right of the picture's middle."""
    y_T: torch.Tensor
    """Middle of the sprite, pixels below the picture's middle."""
    height_T: torch.Tensor
    """Height of the sprite in pixels."""
    angle_T: torch.Tensor
    """Turn in radians, clockwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedSprite:
    """A sprite with its path; nothing about it is left to chance."""

    frames_TCHW: torch.Tensor
    """RGBA with premultiplied alpha, one frame of the sprite for each of the clip."""
    path: SpritePath
    """Where it is."""
    shadow: float
    """Darkness of its contact shadow, 0 to 1."""

    def moved(self, right: float, down: float, scale: float = 1.0) -> "PlacedSprite":
        """Return it some pixels away and scaled about its middle; pose and motion are the same."""
        path = replace(
            self.path,
            x_T=self.path.x_T + right,
            y_T=self.path.y_T + down,
            height_T=self.path.height_T * scale,
        )
        return replace(self, path=path)


def composite_sprite(
    background_CTHW: torch.Tensor,
    sprite_TCHW: torch.Tensor,
    *,
    motion: SpriteMotion | None = None,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let an animated sprite move smoothly over a background.

    Args:
        background_CTHW: RGB clip, float, in [0, 1].
        sprite_TCHW: RGBA frames in [0, 1], straight (not premultiplied) alpha, already at the
            clip's frame rate; any size. They are repeated in a loop when too few.
        motion: Ranges of the path; None: the defaults.
        generator: The only source of chance.

    Returns:
        The clip, same shape as the background, and the sprite's alpha of shape 1THW, in [0, 1].

    Raises:
        ValueError: Background or sprite have the wrong number of axes or channels.
    """
    placed = draw_sprite(background_CTHW, sprite_TCHW, motion=motion, generator=generator)
    return render_sprite(background_CTHW, placed)


def draw_sprite(
    background_CTHW: torch.Tensor,
    sprite_TCHW: torch.Tensor,
    *,
    motion: SpriteMotion | None = None,
    generator: torch.Generator,
) -> PlacedSprite:
    """Draw how a sprite moves over a background; see `composite_sprite`."""
    if background_CTHW.ndim != 4 or background_CTHW.shape[0] != 3:
        raise ValueError(f"background must be (3, T, H, W), got {tuple(background_CTHW.shape)}")
    if sprite_TCHW.ndim != 4 or sprite_TCHW.shape[1] != 4 or sprite_TCHW.shape[0] < 1:
        raise ValueError(f"sprite must be (T, 4, h, w), got {tuple(sprite_TCHW.shape)}")
    motion = motion or SpriteMotion()
    looped_TCHW = _loop(sprite_TCHW, background_CTHW, generator)
    if float(uniform(generator, (1,), background_CTHW, 0, 1)) < motion.mirror_chance:
        looped_TCHW = looped_TCHW.flip(-1)
    path = _random_path(background_CTHW, looped_TCHW, motion, generator)
    # Premultiplied, so that the hidden colour of transparent pixels never bleeds into the edges.
    ready_TCHW = torch.cat((looped_TCHW[:, :3] * looped_TCHW[:, 3:], looped_TCHW[:, 3:]), dim=1)
    shadow = float(uniform(generator, (1,), background_CTHW, 0.4, 1.0)) * motion.shadow
    return PlacedSprite(frames_TCHW=ready_TCHW, path=path, shadow=shadow)


def render_sprite(
    background_CTHW: torch.Tensor, placed: PlacedSprite
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render a sprite over a background; returns clip and alpha as `composite_sprite` does."""
    path = placed.path
    ready_TCHW = _shrink(placed.frames_TCHW, float(path.height_T.max()))
    placed_CTHW = _place(ready_TCHW, path, background_CTHW).transpose(0, 1)
    alpha_1THW = placed_CTHW[3:].clamp(0, 1)
    shade_THW = placed.shadow * _shadow(ready_TCHW, path, background_CTHW)
    clip_CTHW = placed_CTHW[:3] + background_CTHW * (1 - shade_THW) * (1 - alpha_1THW)
    return clip_CTHW.clamp(0, 1), alpha_1THW


def _loop(
    sprite_TCHW: torch.Tensor, background_CTHW: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Cut as many frames as the background has, from a random start, round and round."""
    available, count = sprite_TCHW.shape[0], background_CTHW.shape[1]
    start = int(float(uniform(generator, (1,), background_CTHW, 0, 1)) * available)
    index_T = (torch.arange(count, device=sprite_TCHW.device) + start) % available
    return sprite_TCHW[index_T].to(device=background_CTHW.device, dtype=background_CTHW.dtype)


def _ease(num_frames: int, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a rise from 0 to 1 over the frames, somewhere between even and eased, shape T."""
    even_T = torch.linspace(0, 1, num_frames, device=like.device, dtype=like.dtype)
    share = float(uniform(generator, (1,), like, 0, 1))
    return even_T + share * (even_T * even_T * (3 - 2 * even_T) - even_T)


def _random_path(
    clip_CTHW: torch.Tensor,
    sprite_TCHW: torch.Tensor,
    motion: SpriteMotion,
    generator: torch.Generator,
) -> SpritePath:
    """Draw a smooth path on which most of the sprite stays inside the picture."""
    num_frames, rows, columns = clip_CTHW.shape[1:]
    short = min(rows, columns)
    aspect = sprite_TCHW.shape[-1] / sprite_TCHW.shape[-2]
    draw = uniform(generator, (8,), clip_CTHW, 0, 1).tolist()
    rise_T = _ease(num_frames, clip_CTHW, generator)
    growth = motion.growth * (2 * draw[1] - 1)
    middle = short * (motion.scale[0] + (motion.scale[1] - motion.scale[0]) * draw[0])
    size_T = middle * (1 + growth * (rise_T - 0.5))
    height_T = size_T.clamp(motion.scale[0] * short, motion.scale[1] * short)
    # A tenth of the sprite may leave the picture.
    free_y = (rows - 0.8 * height_T).clamp(min=0) / 2
    free_x = (columns - 0.8 * height_T * aspect).clamp(min=0) / 2
    heading, way = 2 * math.pi * draw[4], motion.travel * short * draw[5]
    along_T = way * (rise_T - 0.5)
    x_T = (2 * draw[2] - 1) * 0.9 * free_x + along_T * math.cos(heading)
    # Subjects stand low more often than high.
    y_T = (1.4 * draw[3] - 0.4) * 0.9 * free_y + 0.5 * along_T * math.sin(heading)
    sway_T = torch.sin(2 * math.pi * (draw[6] + 0.6 * rise_T))
    angle_T = math.radians(motion.turn) * (0.6 * sway_T + 0.4 * (2 * draw[7] - 1))
    return SpritePath(
        x_T=free_x * torch.tanh(x_T / free_x.clamp(min=1e-3)),
        y_T=free_y * torch.tanh(y_T / free_y.clamp(min=1e-3)),
        height_T=height_T,
        angle_T=angle_T,
    )


def _shrink(sprite_TCHW: torch.Tensor, height: float) -> torch.Tensor:
    """Average the sprite down to the height it is shown at, so that sampling does not alias."""
    while sprite_TCHW.shape[-2] >= 2 * height and sprite_TCHW.shape[-1] >= 2:
        sprite_TCHW = functional.avg_pool2d(sprite_TCHW, 2)
    rows, columns = sprite_TCHW.shape[-2:]
    if height >= rows:
        return sprite_TCHW
    size = (max(1, round(height)), max(1, round(columns * height / rows)))
    return functional.interpolate(sprite_TCHW, size=size, mode="area")


def _place(sprite_TCHW: torch.Tensor, path: SpritePath, clip_CTHW: torch.Tensor) -> torch.Tensor:
    """Draw the sprite at its place on each frame, zero elsewhere, shape TCHW."""
    rows, columns = clip_CTHW.shape[-2:]
    half_y = path.height_T / 2
    half_x = half_y * sprite_TCHW.shape[-1] / sprite_TCHW.shape[-2]
    cos, sin = path.angle_T.cos(), path.angle_T.sin()
    # Picture pixel -> sprite: go to the sprite's middle, turn back, divide by its half size.
    to_x = torch.stack(
        (cos * columns / 2, sin * rows / 2, -cos * path.x_T - sin * path.y_T), dim=-1
    )
    to_y = torch.stack(
        (-sin * columns / 2, cos * rows / 2, sin * path.x_T - cos * path.y_T), dim=-1
    )
    theta_T23 = torch.stack((to_x / half_x[:, None], to_y / half_y[:, None]), dim=1)
    shape = [sprite_TCHW.shape[0], sprite_TCHW.shape[1], rows, columns]
    place = functional.affine_grid(theta_T23, shape, align_corners=False)
    return functional.grid_sample(
        sprite_TCHW, place, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _shadow(sprite_TCHW: torch.Tensor, path: SpritePath, clip_CTHW: torch.Tensor) -> torch.Tensor:
    """Return a soft flat shadow where the sprite touches the ground, THW in [0, 1]."""
    rows, columns = clip_CTHW.shape[-2:]
    # The whole loop together has one foot point: the shadow must not jump with every gesture.
    cover = sprite_TCHW[:, 3].amax(dim=0)
    high, wide = cover.shape
    used_rows = torch.nonzero(cover.amax(dim=1) > 0.2)[:, 0]
    if used_rows.numel() == 0:
        return torch.zeros_like(clip_CTHW[0])
    low = int(used_rows[-1]) + 1
    foot = cover[max(0, low - max(1, high // 6)) : low].amax(dim=0)
    across = torch.arange(wide, device=cover.device) + 0.5
    middle = float((foot * across).sum() / foot.sum()) / wide - 0.5
    breadth = 0.5 * float(foot.mean()) * wide / high
    foot_y, foot_x = (low / high - 0.5) * path.height_T, middle * path.height_T * wide / high
    cos, sin = path.angle_T.cos(), path.angle_T.sin()
    x_T = path.x_T + cos * foot_x - sin * foot_y
    y_T = path.y_T + sin * foot_x + cos * foot_y
    spread_x = (path.height_T * (0.10 + 0.75 * breadth))[:, None, None]
    spread_y = (path.height_T * 0.055)[:, None, None]
    y_H1 = (torch.arange(rows, device=cover.device) + 0.5 - rows / 2)[:, None]
    x_1W = (torch.arange(columns, device=cover.device) + 0.5 - columns / 2)[None]
    away_x = (x_1W - x_T[:, None, None]) / spread_x
    away_y = (y_H1 - y_T[:, None, None]) / spread_y
    return torch.exp(-0.5 * away_x**2) * torch.exp(-0.5 * away_y**2)


def camera_move(
    image_CHW: torch.Tensor,
    num_frames: int,
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    still_chance: float = 0.2,
) -> torch.Tensor:
    """Make a clip from a still photo: a smooth pan, zoom and slight turn, or no motion at all.

    Args:
        image_CHW: Picture, float, in [0, 1], any size.
        num_frames: Frames to make; >= 1.
        size: Height and width of the clip in pixels.
        generator: The only source of chance.
        still_chance: How often the camera stands still, 0 to 1.

    Returns:
        A clip of shape CTHW in [0, 1], T = num_frames; the view never leaves the picture.

    Raises:
        ValueError: Not a picture, or a size or number of frames below one.
    """
    if image_CHW.ndim != 3 or num_frames < 1 or min(size) < 1:
        raise ValueError(f"no clip of {num_frames} frames {size} from {tuple(image_CHW.shape)}")
    still = float(uniform(generator, (1,), image_CHW, 0, 1)) < still_chance
    views_T4 = _camera_path(image_CHW, num_frames, size, generator)
    if still:
        views_T4 = views_T4[:1]
    # Shrunk so that the widest view is read at most 1.15 source pixels per pixel.
    rows, columns = image_CHW.shape[-2:]
    factor = 1.15 * size[0] / (float(views_T4[:, 2].max()) * rows)
    source_CHW = image_CHW
    if factor < 1:
        small = (max(1, round(rows * factor)), max(1, round(columns * factor)))
        source_CHW = functional.interpolate(
            image_CHW[None], size=small, mode="bicubic", antialias=True, align_corners=False
        )[0]
    clip_TCHW = _view(source_CHW, views_T4, size)
    clip_CTHW = clip_TCHW.transpose(0, 1).clamp(0, 1)
    return clip_CTHW.expand(-1, num_frames, -1, -1).contiguous()


def _camera_path(
    image_CHW: torch.Tensor, num_frames: int, size: tuple[int, int], generator: torch.Generator
) -> torch.Tensor:
    """Draw views of shape T4: middle x and y in [-1, 1], height as a share of the image, angle."""
    rows, columns = image_CHW.shape[-2:]
    first, last = uniform(generator, (2, 4), image_CHW, 0, 1)
    rise_T1 = _ease(num_frames, image_CHW, generator)[:, None]
    view_T4 = first + (last - first) * rise_T1
    angle_T = math.radians(4.0) * (2 * view_T4[:, 3] - 1)
    # Size of the turned view's bounding box per unit of its height, as shares of the image.
    aspect = size[1] / size[0]
    cos, sin = angle_T.cos(), angle_T.sin().abs()
    box_y, box_x = cos + aspect * sin, (aspect * cos + sin) * rows / columns
    largest_T = 1 / torch.maximum(box_y, box_x)
    height_T = largest_T * (0.66 + 0.32 * view_T4[:, 2])
    free_x, free_y = 1 - box_x * height_T, 1 - box_y * height_T
    x_T, y_T = (2 * view_T4[:, 0] - 1) * free_x, (2 * view_T4[:, 1] - 1) * free_y
    return torch.stack((x_T, y_T, height_T, angle_T), dim=1)


def _view(image_CHW: torch.Tensor, views_T4: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Read the views from the image by bicubic interpolation, shape TCHW."""
    rows, columns = image_CHW.shape[-2:]
    x_T, y_T, height_T, angle_T = views_T4.unbind(dim=1)
    cos, sin = angle_T.cos(), angle_T.sin()
    aspect, stretch = size[1] / size[0], rows / columns
    # In units of half the image's height; `stretch` turns x into units of half its width.
    to_x = torch.stack((cos * aspect * height_T, -sin * height_T), dim=1) * stretch
    to_y = torch.stack((sin * aspect * height_T, cos * height_T), dim=1)
    theta_T23 = torch.stack(
        (
            torch.cat((to_x, x_T[:, None]), dim=1),
            torch.cat((to_y, y_T[:, None]), dim=1),
        ),
        dim=1,
    )
    frames, channels = views_T4.shape[0], image_CHW.shape[0]
    place = functional.affine_grid(theta_T23, [frames, channels, *size], align_corners=False)
    return functional.grid_sample(
        image_CHW.expand(frames, -1, -1, -1),
        place,
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
