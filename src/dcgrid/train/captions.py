"""Texts of training grids, written with the same recipes that `edit` uses.

Letters: K cells.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch

from dcgrid.grid.layout import GridLayout
from dcgrid.grid.modes import Routing
from dcgrid.grid.visibility import visible_segments
from dcgrid.models.native.text import build_vocabulary
from dcgrid.prompts.template import render_grid
from dcgrid.recipes import load_effect, load_layout
from dcgrid.recipes.schema import EffectRecipe, LayoutRecipe
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.fusion import ELEMENTS, Element
from dcgrid.synthetic.world_clips import MOTIONS, chance, pick
from dcgrid.train.variants import VariantSet

NAMED_SHARE = 0.6
"""How often a caption names the subject; else it says what `edit` says by default."""


class Captions:
    """Writes captions of grids and of single clips.

    Args:
        effects: Effects by whose phrases cells are told.
        layout: Recipe of grids of edits.
        composition: Recipe of grids of fusions.
        own_clause_only: True: a cell reads the global text and its own clause; else it reads what
            the mode of its grid lets it read, as at inference.
    """

    def __init__(
        self,
        effects: Iterable[EffectRecipe],
        layout: LayoutRecipe,
        composition: LayoutRecipe,
        *,
        own_clause_only: bool,
    ) -> None:
        self.own_clause_only = own_clause_only
        self.effects = {effect.name: effect for effect in effects}
        self.layout = layout
        self.composition = composition

    def vocabulary(self, subjects: Iterable[str]) -> tuple[str, ...]:
        """Return every word that a caption can hold."""
        texts = [text for row in cell_rows(self.layout, [], {}) for text in row]
        for element in ELEMENTS.values():
            for phrase in element.phrases:
                slots = _element_slots(element, phrase)
                texts += [text for row in cell_rows(self.composition, [], slots) for text in row]
        for effect in self.effects.values():
            texts += [effect.clause, effect.negative, effect.title, *effect.phrases]
        return build_vocabulary([*texts, *subjects, *MOTIONS])

    def grid_rows(
        self, variants: VariantSet, chosen: Sequence[int], generator: torch.Generator
    ) -> list[list[str]]:
        """Return the texts that each cell of a 2x2 grid reads: the global one, its own, others."""
        if variants.element:
            return self._fusion_rows(variants, generator, own_clause_only=self.own_clause_only)
        clauses = [self._clause(variants, i, generator) for i in chosen]
        return cell_rows(
            self.layout,
            clauses,
            self._slots(variants, generator),
            own_clause_only=self.own_clause_only,
        )

    def _fusion_rows(
        self, variants: VariantSet, generator: torch.Generator, *, own_clause_only: bool
    ) -> list[list[str]]:
        element = ELEMENTS[variants.element]
        phrase = element.phrases[pick(len(element.phrases), generator)]
        slots = {**self._slots(variants, generator), **_element_slots(element, phrase)}
        return cell_rows(self.composition, [], slots, own_clause_only=own_clause_only)

    def clip_row(self, variants: VariantSet, chosen: int, generator: torch.Generator) -> list[str]:
        """Return the text of a single clip."""
        if variants.element:
            # Its own clause of the composition says as much as a caption would.
            return self._fusion_rows(variants, generator, own_clause_only=True)[chosen][1:]
        slots = self._slots(variants, generator)
        subject = slots.get("subject") or self.layout.slots["subject"]
        motion = slots.get("motion") or self.layout.slots["motion"]
        clause = self._clause(variants, chosen, generator) or ""
        return [f"{subject} {motion} {clause}"]

    def _clause(self, variants: VariantSet, variant: int, generator: torch.Generator) -> str | None:
        """Return what a variant's cell says: how it is moved, and its effect; None: neither."""
        moved = variants.moves[variant] if variants.moves else ""
        said = (moved, self.effect_clause(variants.effects[variant], generator))
        return " ".join(words for words in said if words) or None

    def effect_clause(self, effect: str, generator: torch.Generator) -> str:
        """Return one way to say an effect; "" of no effect."""
        if not effect:
            return ""
        recipe = self.effects[effect]
        if chance(generator) < 0.5:
            return recipe.clause
        return recipe.phrases[pick(len(recipe.phrases), generator)]

    def _slots(self, variants: VariantSet, generator: torch.Generator) -> dict[str, str | None]:
        if chance(generator) > NAMED_SHARE:
            return {}
        return {"subject": variants.subject, "motion": variants.motion}


def cell_rows(
    layout: LayoutRecipe,
    clauses: Sequence[str | None],
    slots: Mapping[str, str | None],
    *,
    own_clause_only: bool = True,
) -> list[list[str]]:
    """Return the texts that each cell of a rendered grid reads, as `pipelines` lets it read them.

    Paper: sec. 3.2 (structured attention masking)
    """
    prompt, routing = render_grid(layout, slots, clauses), Routing()
    if layout.mode == "composition":
        routing = Routing(mode="composition", sources=(layout.given[0], layout.given[1]))
    grid = GridLayout(rows=layout.rows, cols=layout.cols)
    visible_KS = visible_segments(prompt, grid, routing, own_clause_only=own_clause_only)
    return [
        [prompt.segment_text(s) for s, seen in zip(prompt.segments, row, strict=True) if seen]
        for row in visible_KS
    ]


def _element_slots(element: Element, phrase: str) -> dict[str, str]:
    return {"effect": phrase, "effect_look": element.look, "effect_motion": element.motion}


def world_captions(*, own_clause_only: bool) -> Captions:
    """Return the writer of captions of the procedural world."""
    effects = [load_effect(name) for name in EFFECT_NAMES]
    layouts = load_layout("edit-2x2"), load_layout("composition-2x2")
    return Captions(effects, *layouts, own_clause_only=own_clause_only)


def captions_of(subjects: Iterable[str]) -> tuple[str, ...]:
    """Return every word that captions with these subjects can hold."""
    return world_captions(own_clause_only=True).vocabulary([*subjects, "scene", "camera move"])
