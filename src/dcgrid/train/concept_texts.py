"""Texts of grids about concepts that the Multi-DC LoRA learned.

A cell that is generated alone gets the prompt that stage `dc` trained on, with another ending:

    a cat [Cat_identity] performing stroll [motion_stroll] on a playground    as learned
    a cat [Cat_identity] performing stroll [motion_stroll] on a playground in heavy rain
    a cat [Cat_identity] performing stroll [motion_stroll] at the sea         another place

In the grid the same cell reads what `edit` and `compose` write, with the tags in it.

Paper: sec. 3.2 (Grid LoRA), sec. 9 (prompts)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dcgrid.errors import RecipeError
from dcgrid.grid.modes import Mode
from dcgrid.recipes import EffectRecipe, LayoutRecipe, load_effect, load_layout
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.world_clips import chance, pick
from dcgrid.train.captions import cell_rows
from dcgrid.train.data.manifest import Concept

_FUSIONS = ("surrounded by {}", "with {} weaving around it")
"""How the lower cells of a composition say what they show; the layout's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTexts:
    """What is said of one grid."""

    cells: tuple[str, ...]
    """The whole prompt of each cell, for generating it alone."""
    rows: list[list[str]]
    """What each cell reads in the grid: the global text and its own."""
    concepts: tuple[str, ...]
    """Tags of the identities that are named."""


class ConceptTexts:
    """Draws texts of grids.

    Args:
        concepts: What they are about.
        places: Scenes for edits beside light and weather, which are the shipped effects.
        tagged: True: texts name the unique tokens; False: words alone, as the bare base knows.
        mixed: True: a motion may be that of another concept, a combination that was never learned.
        own_clause_only: See `Captions`.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        places: Sequence[str] = (),
        *,
        own_clause_only: bool,
        tagged: bool = True,
        mixed: bool = False,
    ) -> None:
        self.own_clause_only = own_clause_only
        self.subjects = [concept for concept in concepts if concept.role == "subject"]
        self.effects = [concept for concept in concepts if concept.role == "effect"]
        self.places, self.tagged, self.mixed = tuple(places), tagged, mixed
        self.edits: list[EffectRecipe] = [load_effect(name) for name in EFFECT_NAMES]
        self.layouts: dict[Mode, LayoutRecipe] = {
            "consistent": load_layout("edit-2x2"),
            "composition": load_layout("composition-2x2"),
        }

    def draw(self, mode: Mode, generator: torch.Generator) -> GridTexts:
        """Draw the texts of a grid.

        Raises:
            RecipeError: No concept plays a part that the mode needs.
        """
        subject = self._one_of(self.subjects, "subject", mode, generator)
        if self.mixed:
            other = self.subjects[pick(len(self.subjects), generator)]
            subject = replace(subject, motion=other.motion, motion_token=other.motion_token)
        if mode == "consistent":
            return self._edits_of(subject, generator)
        return self._fusions_of(subject, self._one_of(self.effects, "effect", mode, generator))

    def all_texts(self) -> list[str]:
        """Return what texts are made of, to be looked through before any is generated."""
        return [*(self._prompt(c, c.scene) for c in (*self.subjects, *self.effects)), *self.places]

    def _edits_of(self, concept: Concept, generator: torch.Generator) -> GridTexts:
        """The concept as it was learned, then three edits of it."""
        choices = len(self.edits) + len(self.places)
        order = torch.randperm(choices, generator=generator).tolist()[:3]
        endings = [concept.scene, *(self._ending(n, concept, generator) for n in order)]
        slots = {**self._slots(concept), "scene": concept.scene or None}
        return GridTexts(
            cells=tuple(self._prompt(concept, ending) for ending in endings),
            rows=self._rows("consistent", slots, [None, *endings[1:]]),
            concepts=(concept.identity,),
        )

    def _ending(self, number: int, concept: Concept, generator: torch.Generator) -> str:
        """Light and weather come upon the scene, a place takes its place."""
        if number >= len(self.edits):
            return self.places[number - len(self.edits)]
        edit = self.edits[number]
        phrase = edit.phrases[pick(len(edit.phrases), generator)]
        return _joined(concept.scene, edit.clause if chance(generator) < 0.5 else phrase)

    def _fusions_of(self, one: Concept, other: Concept) -> GridTexts:
        """Both as they were learned, then two fusions that name the tags of both."""
        endings = [_joined(one.scene, form.format(self._prompt(other, ""))) for form in _FUSIONS]
        slots = {
            **self._slots(one),
            "scene": one.scene or None,
            "effect": other.subject,
            "effect_tag": other.identity if self.tagged else None,
            "effect_look": _joined(other.subject, other.scene),
            "effect_motion": _joined(other.motion, self._tag(other.motion_token)),
        }
        return GridTexts(
            cells=(
                self._prompt(one, one.scene),
                self._prompt(other, other.scene),
                *(self._prompt(one, ending) for ending in endings),
            ),
            rows=self._rows("composition", slots, [None, None, *endings]),
            concepts=(one.identity, other.identity),
        )

    def _prompt(self, concept: Concept, ending: str) -> str:
        """Write a cell's prompt as stage `dc` knows it, with an ending in place of its scene."""
        shown = replace(concept, scene=ending)
        return shown.dynamic_prompt if self.tagged else shown.plain_prompt(moving=True)

    def _slots(self, concept: Concept) -> dict[str, str | None]:
        return {
            "subject": concept.subject,
            "identity": concept.identity if self.tagged else None,
            "motion": concept.motion,
            "motion_tag": concept.motion_token if self.tagged else None,
        }

    def _rows(
        self, mode: Mode, slots: dict[str, str | None], clauses: Sequence[str | None]
    ) -> list[list[str]]:
        layout = self.layouts[mode]
        return cell_rows(layout, clauses, slots, own_clause_only=self.own_clause_only)

    def _tag(self, name: str) -> str:
        return f"[{name}]" if self.tagged else ""

    def _one_of(
        self, concepts: Sequence[Concept], role: str, mode: Mode, generator: torch.Generator
    ) -> Concept:
        if not concepts:
            raise RecipeError(
                f"grids of mode {mode} need a concept of role {role}, and there is none",
                hint=f'role = "{role}" in the manifest of stage dc, or other concepts here',
            )
        return concepts[pick(len(concepts), generator)]


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)
