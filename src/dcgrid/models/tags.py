"""Tags: names in brackets whose embeddings stage `dc` trains, and the file that keeps them.

    a cat [Cat_identity] performing a stroll [motion_stroll]

Letters: G tags, E text width.

Paper: sec. 3.1 (unique identifiers)
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from dcgrid.errors import WeightsError
from dcgrid.models.base import TagTable
from dcgrid.models.trunk import TextReader
from dcgrid.models.weights import read_weights, save_weights

TOKENS_NAME = "dc-tokens.safetensors"
"""Name of the file that stage dc writes beside its LoRA."""
_TABLE = "tags"
"""Name of the embeddings, and of the list of names, in the file."""


def save_tags(path: Path, encoder: TextReader, facts: Mapping[str, str]) -> None:
    """Write the tags that an encoder knows, and their embeddings in float32.

    Raises:
        OutputError: The file cannot be written.
    """
    table_GE = torch.stack([tag_E.detach() for tag_E in encoder.tags]).float().cpu()
    named = {**facts, _TABLE: list(encoder.tag_names)}
    save_weights(path, {_TABLE: table_GE}, named, torch.float32)


def read_tags(path: Path) -> TagTable:
    """Read a file of tags.

    Raises:
        WeightsError: The file is missing or damaged, or holds no tags.
    """
    tensors, facts = read_weights(path)
    names, table = facts.get(_TABLE), tensors.get(_TABLE)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = []
    if table is None or table.ndim != 2 or not 0 < len(names) == len(set(names)) == len(table):
        raise WeightsError(f"{path} holds no tags", hint=f"stage dc writes them: {TOKENS_NAME}")
    if not table.isfinite().all():
        raise WeightsError(f"{path} holds tags that are not finite", hint="train stage dc again")
    return TagTable(names=tuple(names), embeddings_GE=table)


def check_width(path: Path, tags: TagTable, width: int) -> None:
    """Check that tags fit a text encoder.

    Args:
        path: Their file.
        tags: What it holds.
        width: E of the encoder's embeddings.

    Raises:
        WeightsError: They are of another width.
    """
    if tags.embeddings_GE.shape[1] != width:
        raise WeightsError(
            f"{path}: tags are {tags.embeddings_GE.shape[1]} wide, the text encoder's words "
            f"{width}",
            hint="train stage dc for this model, or name the model that the tags are for",
        )


def load_tags(path: Path, encoder: TextReader) -> tuple[str, ...]:
    """Give a text encoder the tags of a file; see `TextReader.put_tags`.

    Returns:
        Their names, without brackets.

    Raises:
        WeightsError: The file is missing or damaged, holds no tags, or embeddings of another width.
    """
    tags = read_tags(path)
    check_width(path, tags, encoder.tag_width)
    encoder.put_tags(tags)
    return tags.names
