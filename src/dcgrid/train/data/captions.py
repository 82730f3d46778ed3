"""Texts of training grids, written with the same recipes that `edit` uses.

Letters: K cells.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from dcgrid.errors import RecipeError
from dcgrid.grid.layout import GridLayout
from dcgrid.grid.routing import Mode, Routing, visible_segments
from dcgrid.models.native.text import build_vocabulary
from dcgrid.prompts.template import render_grid
from dcgrid.recipes import EffectRecipe, LayoutRecipe, load_effect, load_layout
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.fusion import ELEMENTS, Element
from dcgrid.synthetic.world_clips import MOTIONS, chance, pick
from dcgrid.train.data.concept_manifest import Concept
from dcgrid.train.data.variants import VariantSet

NAMED_SHARE = 0.6
"""How often a caption names the subject; else it says what `edit` says by default."""


class Captions:
    """Writes captions of grids and of single clips.

    Args:
        effects: Effects whose phrases name what cells show.
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
        mixed: True: a motion may be that of another concept, one that was never trained on.
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
        """The concept as it was trained on, then three edits of it."""
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
        """Both as they were trained on, then two fusions that name the tags of both."""
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
