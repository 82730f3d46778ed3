"""Start a stage from the weights of an earlier edition of the same model instead of random ones.

A model grows between editions: latents get channels, layers get inputs, a new layer comes in. What
an earlier file holds goes to the front of each tensor, the rest of it is zero, so that the model
does at first what it did; layers that the file lacks start as they always do.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from dcgrid.adapters.reading import INPUT_SIDES, product_sides, read_adapter, side_key
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import WeightsError
from dcgrid.models.native.text import RESERVED, TextEncoder
from dcgrid.models.weights import read_weights

_WORDS = "words.weight"


@torch.no_grad()
def start_from(path: Path, module: nn.Module) -> int:
    """Load an earlier weight file into a module that may have grown since.

    Returns:
        How many of the module's tensors the file lacks.

    Raises:
        WeightsError: The file is missing or damaged, or holds what the module has not, or more of
            it than the module has.
    """
    tensors, _ = read_weights(path)
    _put_all(path, tensors, module)
    return len(module.state_dict().keys() - tensors.keys())


@torch.no_grad()
def start_text_from(path: Path, text: TextEncoder) -> int:
    """Load an earlier text encoder into one that may know other words; see `start_from`.

    A word that both know keeps its embedding, wherever it stands in the vocabulary; a new one
    starts as it always does.

    Returns:
        How many words are new.

    Raises:
        WeightsError: See `start_from`; or the file names no vocabulary.
    """
    tensors, facts = read_weights(path)
    earlier = facts.get("vocabulary")
    table = tensors.pop(_WORDS, None)
    if not isinstance(earlier, list) or table is None or len(table) != len(earlier) + RESERVED:
        raise WeightsError(f"{path} names no vocabulary that fits its words")
    _put_all(path, tensors, text)
    weight = text.words.weight
    if table.shape[1] != weight.shape[1]:
        raise WeightsError(f"{path}: words are {table.shape[1]} wide, not {weight.shape[1]}")
    weight[:RESERVED] = table[:RESERVED].to(weight)
    row_of = {word: row for row, word in enumerate(earlier, start=RESERVED)}
    new = 0
    for row, word in enumerate(text.tokenizer.vocabulary, start=RESERVED):
        if word in row_of:
            weight[row] = table[row_of[word]].to(weight)
        else:
            new += 1
    return new


def _put_all(path: Path, tensors: Mapping[str, torch.Tensor], module: nn.Module) -> None:
    own = module.state_dict()
    for name, tensor in tensors.items():
        if name not in own:
            raise WeightsError(f"{path} holds {name}, which the model does not have")
        _put(path, name, tensor, own[name])


@torch.no_grad()
def start_adapter_from(path: Path, module: nn.Module, spec: AdapterSpec) -> int:
    """Load an earlier adapter of any rank into one that is attached; see `start_from`.

    An adapter that was wider is cut to the rank of the new one where that costs least, by its
    singular values. The base need not be the one that it was trained on.

    Args:
        path: The earlier adapter.
        module: The network with the new adapter attached.
        spec: Of the new adapter.

    Returns:
        How many layers the file has nothing for.

    Raises:
        WeightsError: See `start_from`.
        AdapterError: The file is no adapter.
    """
    earlier, tensors = read_adapter(path)
    own = module.state_dict()
    places = {name.rsplit(".lora_A.", 1)[0] for name in own if ".lora_A." in name}
    found = 0
    for place in places:
        down_name = f"{place}.lora_A.{spec.name}.weight"
        up_name = f"{place}.lora_B.{spec.name}.weight"
        if side_key(place, INPUT_SIDES[earlier.form][0]) not in tensors:
            continue
        found += 1
        down_RD, up_DR = product_sides(earlier.form, tensors, place)
        up_DR = up_DR * (earlier.scale / spec.scale)
        rank = own[down_name].shape[0]
        if rank < len(down_RD):
            down_RD, up_DR = _narrowed(down_RD, up_DR, rank)
        _put(path, down_name, down_RD, own[down_name])
        _put(path, up_name, up_DR, own[up_name])
    return len(places) - found


def _put(path: Path, name: str, tensor: torch.Tensor, target: torch.Tensor) -> None:
    """Write a tensor to the front of a larger one (or one of its size); the rest becomes zero."""
    wider = [have > room for have, room in zip(tensor.shape, target.shape, strict=False)]
    if tensor.ndim != target.ndim or any(wider):
        raise WeightsError(
            f"{path}: {name} has shape {tuple(tensor.shape)}, which does not fit into "
            f"{tuple(target.shape)}"
        )
    target.zero_()
    target[tuple(slice(0, size) for size in tensor.shape)] = tensor.to(target)


def _narrowed(
    down_RD: torch.Tensor, up_DR: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest product B A of a lower rank, its sizes shared evenly."""
    left, values, right = torch.linalg.svd(up_DR @ down_RD, full_matrices=False)
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root
