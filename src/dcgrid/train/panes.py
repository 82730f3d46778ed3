"""Panes: latents of one clip under several effects, from which training grids are assembled.

Cells are encoded alone, so a grid is put together in latent space and the same pane serves many
grids. `PanePool.draw` keeps a rolling stock: each step renders a little that is new and reuses the
rest. All chance comes from one generator, so a seed fixes the run.

Letters: V panes of a set, C channels, F Y X latent frames/rows/columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.train.settings import Phase
from dcgrid.train.world.clips import WorldClip, WorldClips, chance, pick
from dcgrid.train.world.effects import EFFECT_NAMES, render_effect

PANES = 5
"""Panes of a set: the clip as it is, and this many less one effects on it."""
STOCK = 96
"""Sets kept; the oldest leaves first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaneSet:
    """One clip as it is and under effects."""

    latents_VCFYX: torch.Tensor
    """Normalised latents; pane 0 is the clip as it is."""
    effects: tuple[str, ...]
    """Name of each pane's effect; "" for pane 0."""
    subject: str
    """What is in the clip."""
    motion: str
    """What it does."""


class PanePool:
    """A rolling stock of pane sets of one shape."""

    def __init__(
        self, world: WorldClips, autoencoder: Autoencoder, effects: Sequence[str] = EFFECT_NAMES
    ) -> None:
        self.world = world
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.effects = tuple(effects)
        self._stock: dict[tuple[int, tuple[int, int]], list[PaneSet]] = {}

    def draw(self, phase: Phase, generator: torch.Generator, *, fresh: int) -> list[PaneSet]:
        """Draw a batch of sets of one size; `fresh` of them are rendered now."""
        size = phase.sizes[pick(len(phase.sizes), generator)]
        stock = self._stock.setdefault((phase.frames, size), [])
        wanted = max(fresh, phase.batch - len(stock))
        stock.extend(self._render(phase.frames, size, generator) for _ in range(wanted))
        del stock[:-STOCK]
        newest = stock[-fresh:] if fresh else []
        older = [stock[pick(len(stock), generator)] for _ in range(phase.batch - len(newest))]
        return newest + older

    def _render(
        self, frames: int, size: tuple[int, int], generator: torch.Generator
    ) -> PaneSet:
        drawn = self.world.draw(frames, size, generator)
        names = [self.effects[pick(len(self.effects), generator)] for _ in range(PANES - 1)]
        if chance(generator) < 0.25:
            names[1] = names[0]  # users ask for one effect in several cells, too
        clips = [drawn.clip_CTHW, *(self._with(n, drawn, generator) for n in names)]
        return PaneSet(
            latents_VCFYX=self._encode(clips),
            effects=("", *names),
            subject=drawn.subject,
            motion=drawn.motion,
        )

    @staticmethod
    def _with(name: str, drawn: WorldClip, generator: torch.Generator) -> torch.Tensor:
        return render_effect(name, drawn.clip_CTHW, generator=generator)

    @torch.no_grad()
    def _encode(self, clips: Sequence[torch.Tensor]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.autoencoder.encode(torch.stack(list(clips)) * 2 - 1).float()
