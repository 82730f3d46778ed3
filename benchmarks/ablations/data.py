"""What is learned from, and what is never shown to an adapter: the held-out subjects and clips.

Every twelfth animated subject of the procedural world is held out. A clip that is measured is such
a subject moving over real footage that no training saw, so its place is known to the pixel. The
base of `mini` saw pictures of these subjects; the adapters did not. Moved pairs are made of
the same subjects and footage.

Letters: T frames, H W height/width, C channels, N clips.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.clips import find_clips, read_bench_clip
from dcgrid.eval.suites.compared_frames import to_pixels
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.presets import MINI_SPEC
from dcgrid.synthetic.animation import composite_sprite
from dcgrid.synthetic.moves import Move, SubjectScene, margin_of, pair_scenes, place_subject
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips, chance, pick
from dcgrid.train.data.variants import FusionPool, VariantPool, VariantSet
from dcgrid.train.settings import Phase

FRAMES, SIDE = 9, 96
"""Frames and side of a cell: small, so that a training takes minutes on two cores."""
STOCK = 80
"""Sets of variants that a training draws from."""
HELD_OUT_STEP = 12
"""Every so manieth subject is held out."""
_POOL_SEED, _CLIP_SEED, _SCENE_SEED = 9_000, 9_100, 9_200


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutClip:
    """A clip whose subject no adapter saw."""

    frames_THWC: Tensor
    """RGB, uint8."""
    alpha_THW: Tensor
    """Where the subject is, 0 to 1."""
    subject: str
    """What it is."""


class FixedPool:
    """A stock of variant sets that is rendered once; stands for `VariantPool` in training."""

    def __init__(self, pool: VariantPool, seed: int, said: Callable[[str], None]) -> None:
        self.world, self.autoencoder = pool.world, pool.autoencoder
        self._pool, self._seed, self._said = pool, seed, said
        self._moved: FixedPool | None = None
        self._moved_share = 0.0

    @cached_property
    def sets(self) -> list[VariantSet]:
        """The stock, rendered when it is first drawn from."""
        phase = Phase(until=1.0, frames=FRAMES, sizes=((SIDE, SIDE),), batch=1)
        generator = torch.Generator().manual_seed(_POOL_SEED + self._seed)
        sets: list[VariantSet] = []
        for number in range(STOCK):
            sets += self._pool.draw(phase, generator, fresh=1)
            if number % 20 == 19:
                self._said(f"seed {self._seed}: {number + 1} of {STOCK} sets of variants")
        return sets

    def with_moved(self, moved: "FixedPool", share: float) -> "FixedPool":
        """Return a stock of these sets and, in a share of the draws, of another's."""
        if not share:
            return self
        both = copy(self)
        both.sets = self.sets  # rendered once for both
        both._moved, both._moved_share = moved, share
        return both

    def draw(self, phase: Phase, generator: torch.Generator, *, fresh: int) -> list[VariantSet]:
        """Draw a batch of sets; nothing is rendered but the stock itself."""
        del fresh
        drawn = []
        for _ in range(phase.batch):
            # Without moved sets no chance is drawn for them: such trainings stay what they were.
            elsewhere = bool(self._moved_share) and chance(generator) < self._moved_share
            sets = self._moved.sets if self._moved and elsewhere else self.sets
            drawn.append(sets[pick(len(sets), generator)])
        return drawn

    def remember(self) -> dict[str, Tensor]:
        """Return nothing: the stock is made again from its seed."""
        return {}

    def recall(self, kept: object) -> None:
        """Need nothing."""


def held_out(store: WorldStore) -> list[str]:
    """Return the names of the subjects that no adapter sees."""
    return store.names["sprites"][::HELD_OUT_STEP]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPools:
    """What the trainings with one seed draw from."""

    edits: FixedPool
    """Clips and effects on them, in place."""
    fusions: FixedPool
    """Compositions."""
    moved: FixedPool
    """Subjects at several places."""


def training_pools(
    store_dir: Path, autoencoder: Autoencoder, seed: int, said: Callable[[str], None]
) -> TrainingPools:
    """Render what the trainings with one seed draw from."""
    store = WorldStore(store_dir)
    away = set(held_out(store))
    store.names = {**store.names, "sprites": [n for n in store.names["sprites"] if n not in away]}
    world = WorldClips(store)
    return TrainingPools(
        edits=FixedPool(VariantPool(world, autoencoder), seed, said),
        fusions=FixedPool(FusionPool(world, autoencoder), seed, said),
        moved=FixedPool(VariantPool(world, autoencoder, moved_share=1.0), seed, said),
    )


def held_out_clips(store_dir: Path, clips_dir: Path, count: int) -> list[HeldOutClip]:
    """Compose held-out subjects onto footage that no training saw; the same ones every time."""
    store = WorldStore(store_dir)
    subjects, paths = held_out(store), find_clips([], clips_dir, allow_seen=False)
    clips = []
    for number in range(count):
        generator = torch.Generator().manual_seed(_CLIP_SEED + number)
        name = subjects[number % len(subjects)]
        ground = read_bench_clip(paths[number % len(paths)], MINI_SPEC).frames_THWC[:FRAMES]
        clip_CTHW, alpha_1THW = composite_sprite(
            _square(ground), store.get("sprites", name).float() / 255, generator=generator
        )
        frames_THWC = to_pixels(clip_CTHW)
        clips.append(HeldOutClip(frames_THWC=frames_THWC, alpha_THW=alpha_1THW[0], subject=name))
    return clips


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScene:
    """A scene to be seen from several places, and another of the same subject."""

    scene: SubjectScene
    """Of which words name the moves."""
    pair: tuple[SubjectScene, SubjectScene, Move]
    """Of which the move is seen on the first, to be made on the second."""


def held_out_scenes(store_dir: Path, clips_dir: Path, count: int) -> list[HeldOutScene]:
    """Put held-out subjects on footage that no training saw; the same ones every time."""
    store = WorldStore(store_dir)
    subjects, paths = held_out(store), find_clips([], clips_dir, allow_seen=False)
    wide, size, scenes = SIDE + 2 * margin_of((SIDE, SIDE)), (SIDE, SIDE), []
    for number in range(count):
        generator = torch.Generator().manual_seed(_SCENE_SEED + number)
        grounds = [
            _square(read_bench_clip(path, MINI_SPEC).frames_THWC[:FRAMES], wide)
            for path in (paths[number % len(paths)], paths[(number + 1) % len(paths)])
        ]
        name = subjects[number % len(subjects)]
        sprite = store.get("sprites", name).float() / 255
        scene = place_subject(grounds[0], sprite, size, name, generator)
        pair = pair_scenes(grounds, sprite, size, name, generator)
        scenes.append(HeldOutScene(scene=scene, pair=pair))
    return scenes


def region_db(found_THWC: Tensor, truth_THWC: Tensor, alpha_THW: Tensor) -> dict[str, float]:
    """Return PSNR in dB inside the subject (alpha above 0.5), outside (below 0.1) and of all."""
    error_THW = (found_THWC.double() - truth_THWC.double()).square().mean(-1)
    regions = {
        "subject": error_THW[alpha_THW > 0.5],
        "outside": error_THW[alpha_THW < 0.1],
        "all": error_THW,
    }
    return {
        name: float(10 * torch.log10(255**2 / errors.mean().clamp_min(1e-3)))
        for name, errors in regions.items()
        if len(errors)
    }


def mean_figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: sum(values) / len(values)
        for name in names
        if (values := [row[name] for row in rows if name in row])
    }


def _square(frames_THWC: Tensor, wanted: int = SIDE) -> Tensor:
    """Cut the middle square out of a clip and bring it to a side, CTHW in [0, 1]."""
    height, width = frames_THWC.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = frames_THWC[:, top : top + side, left : left + side].permute(0, 3, 1, 2).float() / 255
    small = F.interpolate(
        cut, size=(wanted, wanted), mode="bilinear", antialias=True, align_corners=False
    )
    return small.permute(1, 0, 2, 3).clamp(0, 1)
