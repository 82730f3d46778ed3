"""Pairs that are not aligned to the pixels: one subject at two places, sizes, poses, grounds.

A pair is of use only if what is to be seen follows from what is given; otherwise the
best prediction is the mean of all that may be. Two kinds do:

    by words       one clip given, and each other cell says which of `MOVES` it is: always the same
                   way, in parts of the clip's short side
    by analogy     three cells given, the fourth follows; no word says how far
                       here, ground 1            there, ground 1
                       here, ground 2 and pose   there, ground 2 and pose

What the ground shows where the subject stood, and what comes into the picture at the edge, follows
from nothing: there a mean is the best answer.

Read `draw_scene` and `draw_analogy`. Letters: C channels, T H W frames/height/width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from dcgrid.synthetic.animation import PlacedSprite, SpriteMotion, draw_sprite, render_sprite
from dcgrid.synthetic.world_clips import MOTIONS, WorldClips, chance, pick

STEP = 1 / 3
"""How far a named move goes, in parts of the short side."""
GROWTH = 1.4
"""How much larger a subject is that comes near, and how much smaller far away."""
ANALOGY_WORDS = ("", "moved", "later", "moved later")
"""What the cells of an analogy say: the way and the pose are in the pictures alone."""
_MOTION = SpriteMotion(scale=(0.3, 0.55))
_INSIDE = 0.3
"""So much of its height the subject's middle stays away from the picture's edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """How a view differs from another of the same scene; ways are parts of the short side."""

    right: float = 0.0
    """Way of the subject over the ground."""
    down: float = 0.0
    """The same, downwards."""
    camera_right: float = 0.0
    """Way of the camera: all that is seen goes the other way."""
    camera_down: float = 0.0
    """The same, downwards."""
    scale: float = 1.0
    """Size of the subject, times what it was."""


STILL = Move()
MOVES: Mapping[str, Move] = MappingProxyType(
    {
        "moved to the left": Move(right=-STEP),
        "moved to the right": Move(right=STEP),
        "moved up": Move(down=-STEP),
        "moved down": Move(down=STEP),
        "moved near": Move(scale=GROWTH),
        "moved far away": Move(scale=1 / GROWTH),
        "with the camera moved to the left": Move(camera_right=-STEP),
        "with the camera moved to the right": Move(camera_right=STEP),
        "with the camera moved up": Move(camera_down=-STEP),
        "with the camera moved down": Move(camera_down=STEP),
    }
)
"""Moves by the words that ask for them. `mini` knows these words: its vocabulary is fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectScene:
    """A subject over a ground, to be seen after any move."""

    ground_CTHW: torch.Tensor
    """RGB in [0, 1], wider than a view by `margin_of` its size on every side."""
    sprite: PlacedSprite
    """The subject; its path counts from the middle of the view that is not moved."""
    size: tuple[int, int]
    """Height and width of a view in pixels."""
    subject: str
    """What is in it."""
    motion: str
    """What it does, in a word."""

    def view(self, move: Move) -> tuple[torch.Tensor, torch.Tensor]:
        """Render the scene after a move: clip CTHW in [0, 1], and the subject's alpha 1THW."""
        height, width = self.size
        margin, short = margin_of(self.size), min(self.size)
        top = margin + round(move.camera_down * short)
        left = margin + round(move.camera_right * short)
        ground_CTHW = self.ground_CTHW[:, :, top : top + height, left : left + width]
        right, down = _way(move, short)
        return render_sprite(ground_CTHW, self.sprite.moved(right, down, move.scale))

    def fits(self, move: Move) -> bool:
        """Return True if most of the subject is in the picture after a move, on every frame."""
        (height, width), path = self.size, self.sprite.path
        right, down = _way(move, min(self.size))
        inside_T = _INSIDE * path.height_T * move.scale
        across_T = (path.x_T + right).abs() + inside_T
        along_T = (path.y_T + down).abs() + inside_T
        return bool((across_T <= width / 2).all() and (along_T <= height / 2).all())

    def fitting_moves(self) -> list[str]:
        """Return the words of the moves after which the subject is in the picture; at least one."""
        return [words for words, move in MOVES.items() if self.fits(move)] or ["moved far away"]


def margin_of(size: tuple[int, int]) -> int:
    """Return how far a camera of views of this size goes, in pixels."""
    return math.ceil(STEP * min(size))


def _way(move: Move, short: int) -> tuple[float, float]:
    """Return how far the subject goes in the picture, in pixels to the right and down.

    The camera's part is whole pixels, as the ground's is.
    """
    right = move.right * short - round(move.camera_right * short)
    return right, move.down * short - round(move.camera_down * short)


def draw_scene(
    world: WorldClips, frames: int, size: tuple[int, int], generator: torch.Generator
) -> SubjectScene:
    """Draw a subject over a ground, for views of `frames` frames and `size` (height, width)."""
    ground_CTHW = world.draw_ground(frames, _wide(size), generator)
    subject, sprite_TCHW = world.draw_sprite(generator)
    return place_subject(ground_CTHW, sprite_TCHW, size, subject, generator)


def draw_analogy(
    world: WorldClips, frames: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[SubjectScene, SubjectScene, Move]:
    """Draw a scene, the same subject in another pose and on another ground, and a move for both."""
    grounds = [world.draw_ground(frames, _wide(size), generator) for _ in range(2)]
    subject, sprite_TCHW = world.draw_sprite(generator)
    return pair_scenes(grounds, sprite_TCHW, size, subject, generator)


def place_subject(
    ground_CTHW: torch.Tensor,
    sprite_TCHW: torch.Tensor,
    size: tuple[int, int],
    subject: str,
    generator: torch.Generator,
) -> SubjectScene:
    """Put an animated subject on a ground that is wider than a view; see `SubjectScene`."""
    view_CTHW = ground_CTHW[:, :, : size[0], : size[1]]
    return SubjectScene(
        ground_CTHW=ground_CTHW,
        sprite=draw_sprite(view_CTHW, sprite_TCHW, motion=_MOTION, generator=generator),
        size=size,
        subject=subject,
        motion=MOTIONS[pick(len(MOTIONS), generator)],
    )


def pair_scenes(
    grounds: Sequence[torch.Tensor],
    sprite_TCHW: torch.Tensor,
    size: tuple[int, int],
    subject: str,
    generator: torch.Generator,
) -> tuple[SubjectScene, SubjectScene, Move]:
    """Put a subject on two grounds at the same places, in two poses; see `draw_analogy`."""
    first, second = (
        place_subject(ground_CTHW, sprite_TCHW, size, subject, generator) for ground_CTHW in grounds
    )
    second = replace(second, sprite=replace(second.sprite, path=first.sprite.path))
    return first, second, _free_move(first, generator)


def _wide(size: tuple[int, int]) -> tuple[int, int]:
    margin = margin_of(size)
    return size[0] + 2 * margin, size[1] + 2 * margin


def _free_move(scene: SubjectScene, generator: torch.Generator) -> Move:
    """Draw a way of 0.2 to 0.4 short sides in any direction that leaves the subject in view."""
    for _ in range(32):
        length, angle = 0.2 + 0.2 * chance(generator), 2 * math.pi * chance(generator)
        move = Move(right=length * math.cos(angle), down=length * math.sin(angle))
        if scene.fits(move):
            return move
    return MOVES[scene.fitting_moves()[0]]
