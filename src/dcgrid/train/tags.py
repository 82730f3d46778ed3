"""Give a text encoder the tags of the Multi-DC LoRA of a run.

Paper: sec. 3.1 (unique tokens)
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dcgrid.adapters.reading import hash_tensors, read_adapter
from dcgrid.errors import WeightsError
from dcgrid.models.tags import load_tags
from dcgrid.models.trunk import TextReader
from dcgrid.models.weights import read_weights
from dcgrid.train.settings import TrainRecipe


def names_tags(recipe: TrainRecipe) -> bool:
    """Return True if texts may name tags: of grids that Multi-DC made, or for it to read."""
    return any(recipe.loss.get(key, 0.0) > 0 for key in ("dc_strength", "made_share"))


def load_concept_tags(tokens: Path, adapter: Path, text: TextReader) -> tuple[str, ...]:
    """Let a text encoder know the tags of a Multi-DC LoRA.

    Args:
        tokens: File of their embeddings.
        adapter: File of the LoRA; need not be there where it is left away.
        text: The text encoder; on its device afterwards only if it is moved there again.

    Returns:
        The tags, without brackets.

    Raises:
        WeightsError: A file is missing or damaged, or the two are not of one run.
    """
    names = load_tags(tokens, text)
    if adapter.is_file():
        spec, _ = read_adapter(adapter)
        if set(spec.tokens) != {f"[{name}]" for name in names}:
            raise WeightsError(
                f"{tokens} and {adapter} are not of one run: they name other tags",
                hint="copy both from one folder, or train stage dc again",
            )
    return names


def hash_tags(tokens: Path) -> str:
    """Return the hash of the tags in a file, as generated grids name it.

    Raises:
        WeightsError: It is missing or damaged.
    """
    return hash_tensors(read_weights(tokens)[0])


def concept_facts(tokens: Path, adapter: Path) -> dict[str, Any]:
    """Return the hashes of both files, as grids that were made with them say it.

    Raises:
        WeightsError: A file is missing or damaged; the adapter may be missing and is left out then.
    """
    facts: dict[str, Any] = {"tags": hash_tags(tokens)}
    if adapter.is_file():
        facts["adapters"] = [hash_tensors(read_adapter(adapter)[1])]
    return facts


def unknown_notes(texts: Iterable[str], text: TextReader) -> tuple[str, ...]:
    """Return a line that names the words of texts that the model never saw, if there are any."""
    words = [word for one in texts for word in text.unknown_words(one)]
    listed = ", ".join(dict.fromkeys(words))
    return (f"words that the model never saw: {listed}",) if words else ()
