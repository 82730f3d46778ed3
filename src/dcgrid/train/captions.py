"""Texts of training grids, written with the same recipes that `edit` uses.

Letters: K cells.
"""

from collections.abc import Iterable, Sequence

import torch

from dcgrid.models.native.text import build_vocabulary
from dcgrid.prompts.template import render_grid
from dcgrid.recipes.schema import EffectRecipe, LayoutRecipe
from dcgrid.train.panes import PaneSet
from dcgrid.train.world.clips import MOTIONS, chance, pick

NAMED_SHARE = 0.6
"""How often a caption names the subject; else it says what `edit` says by default."""


class Captions:
    """Writes captions of grids and of single clips."""

    def __init__(self, effects: Iterable[EffectRecipe], layout: LayoutRecipe) -> None:
        self.effects = {effect.name: effect for effect in effects}
        self.layout = layout

    def vocabulary(self, subjects: Iterable[str]) -> tuple[str, ...]:
        """Return every word that a caption can hold."""
        texts = [text for row in self._grid([], {}) for text in row]
        for effect in self.effects.values():
            texts += [effect.clause, effect.negative, effect.title, *effect.phrases]
        return build_vocabulary([*texts, *subjects, *MOTIONS])

    def grid_rows(
        self, panes: PaneSet, chosen: Sequence[int], generator: torch.Generator
    ) -> list[list[str]]:
        """Return the texts that each cell of a 2x2 grid reads: the global one and its own."""
        clauses = [self._clause(panes.effects[i], generator) for i in chosen]
        return self._grid(clauses, self._slots(panes, generator))

    def clip_row(self, panes: PaneSet, chosen: int, generator: torch.Generator) -> list[str]:
        """Return the text of a single clip."""
        slots = self._slots(panes, generator)
        subject = slots.get("subject") or self.layout.slots["subject"]
        motion = slots.get("motion") or self.layout.slots["motion"]
        clause = self._clause(panes.effects[chosen], generator) or ""
        return [f"{subject} {motion} {clause}"]

    def _clause(self, effect: str, generator: torch.Generator) -> str | None:
        if not effect:
            return None
        recipe = self.effects[effect]
        if chance(generator) < 0.5:
            return recipe.clause
        return recipe.phrases[pick(len(recipe.phrases), generator)]

    def _slots(self, panes: PaneSet, generator: torch.Generator) -> dict[str, str | None]:
        if chance(generator) > NAMED_SHARE:
            return {}
        return {"subject": panes.subject, "motion": panes.motion}

    def _grid(self, clauses: Sequence[str | None], slots: dict[str, str | None]) -> list[list[str]]:
        prompt = render_grid(self.layout, slots, clauses)
        cells = self.layout.rows * self.layout.cols
        return [
            [prompt.segment_text(s) for s in prompt.segments if s.cell in (None, cell)]
            for cell in range(cells)
        ]
