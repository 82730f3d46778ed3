"""Clips of the procedural world: subjects with a motion, in front of something, drawn at random.

`WorldClips.draw` gives one clip with the words for it. Four kinds, by `MIX`: real footage, a
camera move over a photograph, and before either an animated subject or a filmed person.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dcgrid.models.drift import RATE
from dcgrid.synthetic.animation import camera_move, composite_sprite
from dcgrid.synthetic.effects import render_effect
from dcgrid.synthetic.effects_fields import cell_scale, draw_drift
from dcgrid.synthetic.store import WorldStore
from dcgrid.video.pixels import unit_of

MIX = {"footage": 0.30, "photo": 0.15, "sprite": 0.30, "person": 0.25}
"""Share of each kind of clip; a person is one of the few that are filmed, before another place."""
EDGE = 0.35
"""Opacity below which a matte's soft edge is cut away: the room of the footage shines through."""

MOTIONS = ("move", "motion", "action", "gesture", "movement")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldClip:
    """One clip and the words for it."""

    clip_CTHW: torch.Tensor
    """RGB in [0, 1]."""
    subject: str
    """What is in it, e.g. "dog face"; "scene" without a subject."""
    motion: str
    """What it does, in a word."""
    matte_THW: torch.Tensor | None = None
    """Opacity of the subject in [0, 1]; None: not known."""


def chance(generator: torch.Generator) -> float:
    """Return one uniform number in [0, 1)."""
    return float(torch.rand((), generator=generator))


def pick(count: int, generator: torch.Generator) -> int:
    """Return one index below `count`."""
    return int(torch.randint(count, (), generator=generator))


class WorldClips:
    """Draws clips from a store; the same generator state draws the same clip.

    Chance is drawn on the CPU, pictures are rendered on `device`.

    Args:
        store: Footage, photos and sprites, at `RATE` frames a second.
        device: Where pictures are rendered; None: the CPU.
        rate: Frames a second of the clips; > 0. Stored frames are held for as long as they last.
        mix: Share of each kind of clip.
    """

    def __init__(
        self,
        store: WorldStore,
        device: torch.device | None = None,
        rate: float = RATE,
        mix: Mapping[str, float] = MIX,
    ) -> None:
        self.store = store
        self.device = device or torch.device("cpu")
        self.rate, self.mix = rate, mix
        self._cache: dict[str, torch.Tensor] = {}

    def draw(self, frames: int, size: tuple[int, int], generator: torch.Generator) -> WorldClip:
        """Draw a clip of `frames` frames and `size` (height, width) pixels."""
        kinds = [k for k in self.mix if k == "photo" or self.store.names[_STORED[k]]]
        weights = torch.tensor([self.mix[k] for k in kinds])
        kind = kinds[int(torch.multinomial(weights, 1, generator=generator))]
        if kind == "footage":
            clip_CTHW, matte_THW = self._filmed(frames, size, generator)
            return WorldClip(
                clip_CTHW=clip_CTHW, subject="scene", motion="motion", matte_THW=matte_THW
            )
        if kind == "photo":
            return WorldClip(
                clip_CTHW=self._photo(frames, size, generator),
                subject="scene",
                motion="camera move",
            )
        if kind == "person":
            return self._person(frames, size, generator)
        return self._sprite(frames, size, generator)

    def draw_subject(
        self, frames: int, size: tuple[int, int], generator: torch.Generator
    ) -> WorldClip:
        """Draw a clip with a named subject that moves over a background; see `draw`."""
        return self._sprite(frames, size, generator)

    def _get(self, kind: str, generator: torch.Generator) -> tuple[str, torch.Tensor]:
        names = self.store.names[kind]
        name = names[pick(len(names), generator)]
        if kind == "sprites":
            return name, self.store.get(kind, name).to(self.device)
        key = f"{kind}/{name}"
        if key not in self._cache:
            self._cache[key] = self.store.get(kind, name).to(self.device)
        return name, self._cache[key]

    def _photo(
        self, frames: int, size: tuple[int, int], generator: torch.Generator
    ) -> torch.Tensor:
        _, photo_CHW = self._get("photos", generator)
        return _color_jitter(camera_move(unit_of(photo_CHW), frames, size, generator), generator)

    def _footage(
        self, frames: int, size: tuple[int, int], generator: torch.Generator
    ) -> torch.Tensor:
        return self._filmed(frames, size, generator)[0]

    def _filmed(
        self, frames: int, size: tuple[int, int], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Crop real footage and its matte in space and time; short ones run forth and back."""
        name, video_CTHW = self._get("footage", generator)
        return self._cropped(name, video_CTHW, frames, size, generator)

    def _person(self, frames: int, size: tuple[int, int], generator: torch.Generator) -> WorldClip:
        """Cut a filmed person out and put them before other footage or a photograph.

        Few are filmed, so most get other clothes, and those who are whole another build and place.
        """
        names = self.store.names["mattes"]
        name = names[pick(len(names), generator)]
        video_CTHW = self.store.get("footage", name).to(self.device)
        person_CTHW, matte_THW = self._cropped(name, video_CTHW, frames, size, generator)
        assert matte_THW is not None
        matte_THW = ((matte_THW - EDGE) / (1 - EDGE)).clamp(0, 1)
        if chance(generator) < 0.7:
            person_CTHW = _redressed(person_CTHW, generator)
        cut = matte_THW[:, 0].amax(), matte_THW[:, :, 0].amax(), matte_THW[:, :, -1].amax()
        if max(cut) < 0.1 and chance(generator) < 0.7:
            moved_CTHW = _rebuilt(torch.cat([person_CTHW, matte_THW[None]]), generator)
            person_CTHW, matte_THW = moved_CTHW[:3], moved_CTHW[3]
        ground_CTHW = self.draw_ground(frames, size, generator)
        return WorldClip(
            clip_CTHW=torch.lerp(ground_CTHW, person_CTHW, matte_THW),
            subject="person",
            motion="motion",
            matte_THW=matte_THW,
        )

    def _cropped(
        self,
        name: str,
        video_CTHW: torch.Tensor,
        frames: int,
        size: tuple[int, int],
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if name in self.store.names["mattes"]:
            matte_THW = self.store.get("mattes", name).to(self.device)
            video_CTHW = torch.cat([video_CTHW, matte_THW[None]])
        count = int(video_CTHW.shape[1] * self.rate / RATE)
        there_and_back = list(range(count)) + list(range(count - 2, 0, -1)) or [0]
        start = pick(max(count - frames, 0) + 1, generator)
        order = [there_and_back[(start + i) % len(there_and_back)] for i in range(frames)]
        if chance(generator) < 0.3:
            order.reverse()
        order = [self._stored(frame) for frame in order]
        cropped = _random_crop(video_CTHW[:, order], size, generator)
        if chance(generator) < 0.5:
            cropped = cropped.flip(-1)
        matte = cropped[3] if len(cropped) > 3 else None
        return _color_jitter(cropped[:3], generator), matte

    def _stored(self, frame: int) -> int:
        """Return the stored frame that is on at a frame of the clip."""
        return int(frame * RATE / self.rate + 1e-6)

    def render(
        self,
        effect: str,
        drawn: WorldClip,
        generator: torch.Generator,
        drift_MFYX: torch.Tensor | None = None,
        scale: float | None = None,
    ) -> torch.Tensor:
        """Render an effect on a clip of this world, CTHW; see `effects.render_effect`.

        Without a scale it is that of the clip's size.
        """
        return render_effect(
            effect,
            drawn.clip_CTHW,
            generator=generator,
            fps=self.rate,
            scale=cell_scale(drawn.clip_CTHW) if scale is None else scale,
            drift_MFYX=drift_MFYX,
            matte_THW=drawn.matte_THW,
        )

    def draw_drift(
        self,
        like_CTHW: torch.Tensor,
        count: int,
        generator: torch.Generator,
        scale: float | None = None,
    ) -> list[torch.Tensor]:
        """Draw the noise from which so many effects on a clip are rendered, MFYX each."""
        seconds_T = self.seconds(like_CTHW.shape[1])
        scale = cell_scale(like_CTHW) if scale is None else scale
        return [draw_drift(like_CTHW, seconds_T, generator, scale) for _ in range(count)]

    def seconds(self, frames: int) -> torch.Tensor:
        """Return the time of each frame of a clip, T, in seconds, on the device."""
        return torch.arange(frames, device=self.device) / self.rate

    def draw_ground(
        self, frames: int, size: tuple[int, int], generator: torch.Generator
    ) -> torch.Tensor:
        """Draw what a subject may move over, CTHW in [0, 1]: a photograph, or real footage."""
        return self._ground(generator)(frames, size, generator)

    def draw_sprite(self, generator: torch.Generator) -> tuple[str, torch.Tensor]:
        """Draw an animated subject: what it is, and its RGBA frames TCHW in [0, 1]."""
        name, sprite_TCHW = self._get("sprites", generator)
        played = range(max(1, int(len(sprite_TCHW) * self.rate / RATE)))
        sprite_TCHW = sprite_TCHW[[self._stored(frame) for frame in played]]
        return re.sub(r"[^a-z0-9 ]", " ", name), unit_of(sprite_TCHW)

    def _ground(self, generator: torch.Generator) -> "_DrawGround":
        use_footage = bool(self.store.names["footage"]) and chance(generator) < 0.3
        return self._footage if use_footage else self._photo

    def _sprite(self, frames: int, size: tuple[int, int], generator: torch.Generator) -> WorldClip:
        background = self._ground(generator)
        subject, sprite_TCHW = self.draw_sprite(generator)
        clip_CTHW, alpha_1THW = composite_sprite(
            background(frames, size, generator), sprite_TCHW, generator=generator
        )
        motion = MOTIONS[pick(len(MOTIONS), generator)]
        return WorldClip(
            clip_CTHW=clip_CTHW, subject=subject, motion=motion, matte_THW=alpha_1THW[0]
        )


_DrawGround = Callable[[int, tuple[int, int], torch.Generator], torch.Tensor]
_STORED = {"footage": "footage", "photo": "photos", "sprite": "sprites", "person": "mattes"}


def _random_crop(
    video_CTHW: torch.Tensor, size: tuple[int, int], generator: torch.Generator
) -> torch.Tensor:
    """Cut a window of the shape of `size`, 55-100 % of the largest, and shrink it to `size`."""
    height, width = video_CTHW.shape[2:]
    largest = min(height / size[0], width / size[1])
    zoom = largest * (0.55 + 0.45 * chance(generator))
    window = (max(1, int(size[0] * zoom)), max(1, int(size[1] * zoom)))
    top = pick(height - window[0] + 1, generator)
    left = pick(width - window[1] + 1, generator)
    part = unit_of(video_CTHW[:, :, top : top + window[0], left : left + window[1]])
    frames_TCHW = part.transpose(0, 1)
    resized = F.interpolate(
        frames_TCHW, size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized.transpose(0, 1).clamp(0, 1)


def _redressed(person_CTHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mix and tint the colours of a person anew, below some height more than above."""
    rows_H = torch.linspace(-1, 1, person_CTHW.shape[2])
    height = 2 * chance(generator) - 1
    share_H1 = torch.sigmoid(10 * (rows_H - height))[:, None].to(person_CTHW.device)
    looks = []
    for strength in (0.1, 0.5):
        mix_33 = torch.eye(3) + strength * torch.randn(3, 3, generator=generator)
        mix_33 = mix_33 + (1 - mix_33.sum(1, keepdim=True)) / 3
        power = float(torch.exp(strength * torch.randn((), generator=generator)))
        tint_2C = torch.rand(2, 3, 1, 1, 1, generator=generator).to(person_CTHW.device)
        mixed_CTHW = torch.einsum("dc,cthw->dthw", mix_33.to(person_CTHW.device), person_CTHW)
        bent_CTHW = mixed_CTHW.clamp(1e-4, 1) ** power
        looks.append((bent_CTHW * (1 - strength * tint_2C[0]) + strength * tint_2C[1]).clamp(0, 1))
    return torch.lerp(looks[0], looks[1], share_H1)


def _rebuilt(person_CTHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Make a person and their matte smaller, wider or thinner, standing on the lower edge."""
    size = 0.5 + 0.5 * chance(generator)
    wide = size * float(torch.exp(0.15 * torch.randn((), generator=generator)))
    right = (2 * chance(generator) - 1) * 0.5
    # Of the result's coordinates, -1 to 1, those of the person: the lower edge stays.
    theta_T23 = torch.tensor([[1 / wide, 0, -right / wide], [0, 1 / size, 1 - 1 / size]])
    frames_TCHW = person_CTHW.transpose(0, 1)
    theta_T23 = theta_T23.expand(len(frames_TCHW), 2, 3).to(person_CTHW.device)
    grid_THW2 = F.affine_grid(theta_T23, list(frames_TCHW.shape), align_corners=False)
    rebuilt_TCHW = F.grid_sample(frames_TCHW, grid_THW2, padding_mode="border", align_corners=False)
    return rebuilt_TCHW.transpose(0, 1)


def _color_jitter(clip_CTHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Vary exposure, contrast and white balance, as cameras do."""
    draw = torch.rand(5, generator=generator) * 2 - 1
    gains = (1 + 0.12 * draw[:3]).reshape(3, 1, 1, 1).to(clip_CTHW.device)
    gamma = float(torch.exp(0.25 * draw[3]))
    contrast = 1 + 0.15 * float(draw[4])
    return ((clip_CTHW.clamp_min(1e-4) ** gamma - 0.5) * contrast + 0.5).mul(gains).clamp(0, 1)
