"""The record of concepts that stage `dc` leaves in the facts of its tokens' file.

A tag alone says nothing: whoever writes texts with it needs the words that it was learned beside.

    <out>/dc-tokens.safetensors    facts["concepts"]: subject, motion, scene, tags and role of each
"""

import json
from collections.abc import Iterable
from pathlib import Path

from dcgrid.errors import RecipeError, WeightsError
from dcgrid.models.weights import read_weights
from dcgrid.prompts.source import nearest
from dcgrid.train.data.manifest import Concept

RECORD = "concepts"
"""Name of the record among the facts."""
_WORDS = ("subject", "motion", "scene", "identity", "motion_token", "role")


def write_record(concepts: Iterable[Concept]) -> str:
    """Return the words of concepts as JSON; of a clip its name without its folder."""
    return json.dumps(
        [{"clip": c.clip.name, **{word: getattr(c, word) for word in _WORDS}} for c in concepts]
    )


def read_record(path: Path, hint: str) -> list[Concept]:
    """Read the concepts of a file of tokens.

    Args:
        path: The file.
        hint: The command that writes it.

    Raises:
        WeightsError: The file is missing or damaged, or says no words of its concepts.
    """
    _, facts = read_weights(path)
    try:
        listed = json.loads(facts[RECORD])
        concepts = [_concept(one) for one in listed]
    except (KeyError, TypeError, ValueError, AttributeError):
        concepts = []
    if not concepts:
        raise WeightsError(f"{path} says no words of its concepts, only their tags", hint=hint)
    return concepts


def _concept(words: dict[str, str]) -> Concept:
    values = {word: words[word] for word in _WORDS}
    needed = [word for word in _WORDS if word != "scene"]
    if not all(isinstance(value, str) for value in values.values()) or not all(
        values[word].strip() for word in needed
    ):
        raise ValueError("a concept without words")
    return Concept(clip=Path(str(words["clip"])), **values)  # type: ignore[arg-type]


def chosen_concepts(concepts: list[Concept], names: Iterable[str]) -> list[Concept]:
    """Return the concepts with these tags of identity, or all for no names.

    Raises:
        RecipeError: Multi-DC knows no concept of a name.
    """
    known, wanted = {concept.identity for concept in concepts}, list(names)
    for name in wanted:
        if name not in known:
            raise RecipeError(
                f"concepts: Multi-DC does not know {name[:80]!r}{nearest(name, known)}",
                hint=f"it knows {', '.join(sorted(known))}",
            )
    return [concept for concept in concepts if not wanted or concept.identity in wanted]
