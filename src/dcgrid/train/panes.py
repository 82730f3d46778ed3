"""Panes: latents of one clip under several effects, from which training grids are assembled.

Cells are encoded alone, so a grid is put together in latent space and the same pane serves many
grids. `PanePool.draw` keeps a rolling stock: each step renders a little that is new and reuses the
rest. All chance comes from one generator, so a seed fixes the run. A checkpoint keeps no pixels,
only the random state that each set of the stock was rendered from: a resumed run renders a set
again when it is drawn.

Letters: V panes of a set, C channels, M moving channels of noise, F Y X latent frames/rows/columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dcgrid.models.trunk import VideoCodec
from dcgrid.runtime.device import autocast
from dcgrid.train.settings import Phase
from dcgrid.train.world.clips import WorldClips, chance, pick
from dcgrid.train.world.effects import EFFECT_NAMES, render_effect
from dcgrid.train.world.fusion import ELEMENTS, draw_element, fuse_around, fuse_lit
from dcgrid.train.world.luck import draw_luck

PANES = 5
"""Panes of a set: the clip as it is, and this many less one effects on it."""
STOCK = 96
"""Sets kept; the oldest leaves first."""
DRAWN_EFFECTS = (*EFFECT_NAMES, "rain", "snow", "snow", "sparks")
"""What effects are drawn from: those with small drops, learned last, stand more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaneSet:
    """One clip as it is and under effects."""

    latents_VCFYX: torch.Tensor
    """Normalised latents; pane 0 is the clip as it is."""
    luck_VMFYX: torch.Tensor
    """The moving noise that each pane's effect was rendered from."""
    effects: tuple[str, ...]
    """Name of each pane's effect; "" for pane 0."""
    subject: str
    """What is in the clip."""
    motion: str
    """What it does."""
    element: str = ""
    """Key of `fusion.ELEMENTS`: the panes are the clip, the element alone, and two fusions of them.
    Empty: the panes are the clip and effects on it."""


@dataclass(slots=True, kw_only=True)
class _Kept:
    """One set of the stock."""

    origin: torch.Tensor
    """Random state from which it was rendered."""
    panes: PaneSet | None
    """None: known from a checkpoint only, not rendered again yet."""


class PanePool:
    """A rolling stock of pane sets of one shape."""

    def __init__(
        self, world: WorldClips, autoencoder: VideoCodec, effects: Sequence[str] = DRAWN_EFFECTS
    ) -> None:
        self.world = world
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.effects = tuple(effects)
        self._stock: dict[tuple[int, tuple[int, int]], list[_Kept]] = {}

    def draw(self, phase: Phase, generator: torch.Generator, *, fresh: int) -> list[PaneSet]:
        """Draw a batch of sets of one size; `fresh` of them are rendered now."""
        size = phase.sizes[pick(len(phase.sizes), generator)]
        stock = self._stock.setdefault((phase.frames, size), [])
        wanted = max(fresh, phase.batch - len(stock))
        for _ in range(wanted):
            origin = generator.get_state()
            panes = self._render(phase.frames, size, generator)
            stock.append(_Kept(origin=origin, panes=panes))
        del stock[:-STOCK]
        newest = stock[-fresh:] if fresh else []
        older = [stock[pick(len(stock), generator)] for _ in range(phase.batch - len(newest))]
        return [self._panes_of(kept, phase.frames, size) for kept in newest + older]

    def remember(self) -> dict[str, torch.Tensor]:
        """Return how the stock was made: random states, N x bytes for each shape, oldest first."""
        return {
            f"stock.{frames}.{height}.{width}": torch.stack([kept.origin for kept in stock])
            for (frames, (height, width)), stock in self._stock.items()
            if stock
        }

    def recall(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Put back the stock that `remember` told of; its sets are rendered when drawn.

        Raises:
            ValueError: The names or states are not those of a stock.
        """
        stocks: dict[tuple[int, tuple[int, int]], list[_Kept]] = {}
        for name, origins in kept.items():
            frames, height, width = (int(number) for number in name.split(".")[1:])
            # Copies: torch crashes on a random state that is a row of a larger tensor.
            states = [origin.clone() for origin in origins]
            for state in states:
                torch.Generator().set_state(state)  # refuses what is no random state
            stocks[frames, (height, width)] = [_Kept(origin=s, panes=None) for s in states]
        self._stock = stocks

    def _panes_of(self, kept: _Kept, frames: int, size: tuple[int, int]) -> PaneSet:
        if kept.panes is None:
            again = torch.Generator()
            again.set_state(kept.origin)
            kept.panes = self._render(frames, size, again)
        return kept.panes

    def _render(self, frames: int, size: tuple[int, int], generator: torch.Generator) -> PaneSet:
        drawn = self.world.draw(frames, size, generator)
        names = [self.effects[pick(len(self.effects), generator)] for _ in range(PANES - 1)]
        if chance(generator) < 0.25:
            names[1] = names[0]  # users ask for one effect in several cells, too
        seconds_T = self.world.seconds(frames)
        luck = [draw_luck(drawn.clip_CTHW, seconds_T, generator) for _ in range(PANES)]
        clips = [drawn.clip_CTHW]
        for name, luck_MFYX in zip(names, luck[1:], strict=True):
            clips.append(
                render_effect(
                    name,
                    drawn.clip_CTHW,
                    generator=generator,
                    fps=self.world.rate,
                    luck_MFYX=luck_MFYX,
                )
            )
        return PaneSet(
            latents_VCFYX=self._encode(clips),
            luck_VMFYX=torch.stack(luck),
            effects=("", *names),
            subject=drawn.subject,
            motion=drawn.motion,
        )

    @torch.no_grad()
    def _encode(self, clips: Sequence[torch.Tensor]) -> torch.Tensor:
        video_VCTHW = torch.stack(list(clips)) * 2 - 1
        with autocast(video_VCTHW.device, torch.bfloat16):
            return self.autoencoder.encode(video_VCTHW).float()


class FusionPool(PanePool):
    """A rolling stock of compositions: a clip, an element alone, and two fusions of them.

    Paper: sec. 3.2 (composition)
    """

    def _render(self, frames: int, size: tuple[int, int], generator: torch.Generator) -> PaneSet:
        drawn = self.world.draw(frames, size, generator)
        like_CTHW = drawn.clip_CTHW
        seconds_T = self.world.seconds(frames)
        names = tuple(ELEMENTS)
        name = names[pick(len(names), generator)]
        element_CTHW = draw_element(name, like_CTHW, seconds_T, generator)
        clips = [like_CTHW, element_CTHW]
        clips += [fuse(like_CTHW, element_CTHW) for fuse in (fuse_around, fuse_lit)]
        # Nothing here is rendered from the noise: the element is seen in its own cell.
        luck = [draw_luck(like_CTHW, seconds_T, generator) for _ in clips]
        return PaneSet(
            latents_VCFYX=self._encode(clips),
            luck_VMFYX=torch.stack(luck),
            effects=("",) * len(clips),
            subject=drawn.subject,
            motion=drawn.motion,
            element=name,
        )
