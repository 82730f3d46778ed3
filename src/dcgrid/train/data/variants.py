"""Variants: latents of one clip under several effects, from which training grids are assembled.

Cells are encoded alone, so a grid is put together in latent space and the same variant serves many
grids. `VariantPool.draw` keeps a rolling stock: each step renders a little that is new and reuses
the rest. All chance comes from one generator: a seed fixes the run. A checkpoint keeps no pixels,
only the random state that each set of the stock was rendered from: a resumed run renders a set
again when it is drawn.

Letters: V variants of a set, C channels, M drifting channels, F Y X latent frames/rows/columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dcgrid.models.trunk import VideoCodec
from dcgrid.runtime.device import autocast
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.fusion import ELEMENTS, draw_element, fuse_around, fuse_lit
from dcgrid.synthetic.moves import ANALOGY_WORDS, MOVES, STILL, draw_analogy, draw_scene
from dcgrid.synthetic.world_clips import WorldClip, WorldClips, chance, pick
from dcgrid.train.settings import Phase

VARIANTS = 5
"""Variants of a set: the clip as it is, and this many less one effects on it."""
STOCK = 96
"""Sets kept; the oldest leaves first."""
ANALOGY_SHARE = 0.25
"""Share of the moved sets whose fourth variant follows from the others; else words say it."""
MOVED_EFFECT_SHARE = 1 / 3
"""Share of the variants that words move which are under an effect, too."""
ENCODED_PIXELS = 8_000_000
"""Most pixels of all frames that are encoded at once; a clip of 121 x 576 x 1024 has 71 million."""
DRAWN_EFFECTS = (
    *EFFECT_NAMES, *6 * ("backlight",), *2 * ("purple-smoke",), *2 * ("snow",),
    "rain", "sparks", "smoke", "noir", "golden-hour", "blue-light",
)  # fmt: skip
"""What effects are drawn from: those that train slowest stand more than once. Light from behind
needs to know who is in a clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSet:
    """One clip as it is and under effects."""

    latents_VCFYX: torch.Tensor
    """Normalised latents; variant 0 is the clip as it is."""
    drift_VMFYX: torch.Tensor
    """The moving noise that each variant's effect was rendered from."""
    effects: tuple[str, ...]
    """Name of each variant's effect; "" for variant 0."""
    subject: str
    """What is in the clip."""
    motion: str
    """What it does."""
    element: str = ""
    """Key of `fusion.ELEMENTS`: the variants are clip, element alone, and two fusions of them.
    Empty: the variants are the clip and effects on it."""
    moves: tuple[str, ...] = ()
    """How each variant differs in place, size, pose or view, in words; empty: none does."""
    analogy: bool = False
    """True: the fourth variant follows from the other three; see `synthetic.moves`."""

    @classmethod
    def of_words(
        cls, effects: tuple[str, ...], subject: str, motion: str, element: str = ""
    ) -> "VariantSet":
        """Return a set without pictures, of which captions are written."""
        nothing = torch.empty(0)
        return cls(
            latents_VCFYX=nothing,
            drift_VMFYX=nothing,
            effects=effects,
            subject=subject,
            motion=motion,
            element=element,
        )


@dataclass(slots=True, kw_only=True)
class _Kept:
    """One set of the stock."""

    origin: torch.Tensor
    """Random state from which it was rendered."""
    variants: VariantSet | None
    """None: known from a checkpoint only, not rendered again yet."""


_Shape = tuple[int, tuple[int, int]]
"""Frames, and height and width, of the clips of a stock."""


def _origins(stocks: Mapping[_Shape, Sequence[_Kept]]) -> dict[str, torch.Tensor]:
    """Return what sets were rendered from, N x bytes by the name of their shape."""
    return {
        f"stock.{frames}.{height}.{width}": torch.stack([kept.origin for kept in stock])
        for (frames, (height, width)), stock in stocks.items()
        if stock
    }


def _stocks(origins: Mapping[str, torch.Tensor]) -> dict[_Shape, list[_Kept]]:
    """Return sets that are not rendered yet, from what `_origins` returned."""
    stocks: dict[_Shape, list[_Kept]] = {}
    for name, rows in origins.items():
        frames, height, width = (int(number) for number in name.split(".")[1:])
        # Copies: torch crashes on a random state that is a row of a larger tensor.
        stocks[frames, (height, width)] = [_Kept(origin=row.clone(), variants=None) for row in rows]
    return stocks


class VariantPool:
    """A rolling stock of variant sets of one shape."""

    def __init__(
        self,
        world: WorldClips,
        autoencoder: VideoCodec,
        effects: Sequence[str] = DRAWN_EFFECTS,
        *,
        moved_share: float = 0.0,
    ) -> None:
        """Take what clips are drawn from, and how often variants differ in place.

        Args:
            world: Clips, grounds and subjects.
            autoencoder: What encodes them.
            effects: Effects that are drawn; names that stand more than once are drawn more often.
            moved_share: Share of the sets whose variants differ in place, see `synthetic.moves`.
        """
        self.world = world
        self.moved_share = moved_share
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.effects = tuple(effects)
        self._stock: dict[_Shape, list[_Kept]] = {}
        self._added: dict[_Shape, list[_Kept]] = {}
        self._own: dict[bytes, _Kept] = {}

    def draw(self, phase: Phase, generator: torch.Generator, *, fresh: int) -> list[VariantSet]:
        """Draw a batch of sets of one size; `fresh` of them are rendered now."""
        size = phase.sizes[pick(len(phase.sizes), generator)]
        added = self._added.setdefault((phase.frames, size), [])
        stock = [*self._stock.get((phase.frames, size), []), *added]
        count = max(fresh, phase.batch - len(stock))
        for _ in range(count):
            origin = generator.get_state()
            variants = self._render(phase.frames, size, generator)
            for sets in (stock, added):
                sets.append(_Kept(origin=origin, variants=variants))
        del stock[:-STOCK], added[:-STOCK]
        newest = stock[-fresh:] if fresh else []
        older = [stock[pick(len(stock), generator)] for _ in range(phase.batch - len(newest))]
        return [self._variants_of(kept, phase.frames, size) for kept in newest + older]

    def remember(self) -> dict[str, torch.Tensor]:
        """Return how the stock was made: random states, N x bytes for each shape, oldest first."""
        shapes = dict.fromkeys([*self._stock, *self._added])
        stocks = {one: [*self._stock.get(one, []), *self._added.get(one, [])] for one in shapes}
        return _origins({shape: stock[-STOCK:] for shape, stock in stocks.items()})

    def leave_out(self) -> dict[str, torch.Tensor]:
        """Take what was drawn since the last time out of the stock again, and return its origins.

        So batches of one step, on whatever process, draw from the same stock; see `take_in`.
        """
        left = _origins(self._added)
        for stock in self._added.values():
            self._own.update((kept.origin.numpy().tobytes(), kept) for kept in stock)
        self._added.clear()
        return left

    def take_in(self, origins: Mapping[str, torch.Tensor]) -> None:
        """Put the origins of one batch into the stock; what this process rendered is at hand."""
        for shape, stock in _stocks(origins).items():
            kept = [self._own.get(one.origin.numpy().tobytes(), one) for one in stock]
            self._stock[shape] = [*self._stock.get(shape, []), *kept][-STOCK:]

    def forget_own(self) -> None:
        """Let go of what `leave_out` took out: all batches of the step have been taken in."""
        self._own.clear()

    def recall(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Put back the stock of `remember`; its sets are rendered when drawn.

        Raises:
            ValueError: The names or states are not those of a stock.
        """
        stocks = _stocks(kept)
        for stock in stocks.values():
            for one in stock:
                torch.Generator().set_state(one.origin)  # refuses what is no random state
        self._added.clear()
        self._stock = stocks

    def _variants_of(self, kept: _Kept, frames: int, size: tuple[int, int]) -> VariantSet:
        if kept.variants is None:
            again = torch.Generator()
            again.set_state(kept.origin)
            kept.variants = self._render(frames, size, again)
        return kept.variants

    def _render(self, frames: int, size: tuple[int, int], generator: torch.Generator) -> VariantSet:
        # Without moved sets no chance is drawn for them: such runs stay what they were.
        if self.moved_share and chance(generator) < self.moved_share:
            return self._render_moved(frames, size, generator)
        drawn = self.world.draw(frames, size, generator)
        names = [self.effects[pick(len(self.effects), generator)] for _ in range(VARIANTS - 1)]
        if chance(generator) < 0.25:
            names[1] = names[0]  # users ask for one effect in several cells, too
        drift = self.world.draw_drift(drawn.clip_CTHW, VARIANTS, generator)
        clips = [drawn.clip_CTHW]
        for name, drift_MFYX in zip(names, drift[1:], strict=True):
            clips.append(self.world.render(name, drawn, generator, drift_MFYX))
        return VariantSet(
            latents_VCFYX=self._encode(clips),
            drift_VMFYX=torch.stack(drift),
            effects=("", *names),
            subject=drawn.subject,
            motion=drawn.motion,
        )

    def _render_moved(
        self, frames: int, size: tuple[int, int], generator: torch.Generator
    ) -> VariantSet:
        """Render variants of one subject at several places; see `synthetic.moves`."""
        analogy = chance(generator) < ANALOGY_SHARE
        if analogy:
            scene, other, move = draw_analogy(self.world, frames, size, generator)
            views = [one.view(seen) for one in (scene, other) for seen in (STILL, move)]
            words, names = list(ANALOGY_WORDS), [""] * len(ANALOGY_WORDS)
        else:
            scene = draw_scene(self.world, frames, size, generator)
            fitting = scene.fitting_moves()
            order = torch.randperm(len(fitting), generator=generator).tolist()
            words = ["", *(fitting[order[i % len(order)]] for i in range(VARIANTS - 1))]
            views = [scene.view(MOVES.get(one, STILL)) for one in words]
            names = [""] * len(words)
            for i in range(1, len(names)):
                if chance(generator) <= MOVED_EFFECT_SHARE:
                    names[i] = self.effects[pick(len(self.effects), generator)]
        drift = self.world.draw_drift(views[0][0], len(views), generator)
        clips = []
        for name, (clip_CTHW, alpha_1THW), drift_MFYX in zip(names, views, drift, strict=True):
            seen = WorldClip(
                clip_CTHW=clip_CTHW,
                subject=scene.subject,
                motion=scene.motion,
                matte_THW=alpha_1THW[0],
            )
            effect = self.world.render(name, seen, generator, drift_MFYX) if name else clip_CTHW
            clips.append(effect)
        return VariantSet(
            latents_VCFYX=self._encode(clips),
            drift_VMFYX=torch.stack(drift),
            effects=tuple(names),
            subject=scene.subject,
            motion=scene.motion,
            moves=tuple(words),
            analogy=analogy,
        )

    @torch.no_grad()
    def _encode(self, clips: Sequence[torch.Tensor]) -> torch.Tensor:
        video_VCTHW = torch.stack(list(clips)) * 2 - 1
        with autocast(video_VCTHW.device, torch.bfloat16):
            pixels = video_VCTHW[:, 0].numel()
            parts = video_VCTHW.split(len(clips) if pixels <= ENCODED_PIXELS else 1)
            return torch.cat([self.autoencoder.encode(part) for part in parts]).float()


class FusionPool(VariantPool):
    """A rolling stock of compositions: a clip, an element alone, and two fusions of them.

    Paper: sec. 3.2 (composition)
    """

    def _render(self, frames: int, size: tuple[int, int], generator: torch.Generator) -> VariantSet:
        drawn = self.world.draw(frames, size, generator)
        like_CTHW = drawn.clip_CTHW
        seconds_T = self.world.seconds(frames)
        names = tuple(ELEMENTS)
        name = names[pick(len(names), generator)]
        element_CTHW = draw_element(name, like_CTHW, seconds_T, generator)
        clips = [like_CTHW, element_CTHW]
        clips += [fuse(like_CTHW, element_CTHW) for fuse in (fuse_around, fuse_lit)]
        # Nothing here is rendered from the noise: the element is seen in its own cell.
        drift = self.world.draw_drift(like_CTHW, len(clips), generator)
        return VariantSet(
            latents_VCFYX=self._encode(clips),
            drift_VMFYX=torch.stack(drift),
            effects=("",) * len(clips),
            subject=drawn.subject,
            motion=drawn.motion,
            element=name,
        )
