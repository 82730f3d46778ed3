"""Load what earlier stages made: base, autoencoder and tags, or weights to start from.

A model grows between editions: latents get channels, layers get inputs, a new layer comes in.
`start_from` puts what an earlier file holds to the front of each tensor, the rest of it is zero, so
that the model does at first what it did; layers that the file lacks start as they always do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcgrid.adapters.reading import INPUT_SIDES, hash_tensors, product_sides, read_adapter, side_key
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import WeightsError
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.folder import read_native_folder
from dcgrid.models.native.model import load_t5_for, load_text_encoder
from dcgrid.models.native.t5 import T5TextEncoder
from dcgrid.models.native.text import RESERVED, TextEncoder
from dcgrid.models.registry import training_spec
from dcgrid.models.tags import load_tags
from dcgrid.models.trunk import GridTransformer, TextReader, VideoCodec
from dcgrid.models.wan.model import find_checkout
from dcgrid.models.wan.trunk import load_codec, load_trunk
from dcgrid.models.weights import load_weights, read_weights
from dcgrid.runtime.device import choose_dtype
from dcgrid.train.settings import GridLoss, TrainRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The frozen base, before any adapter."""

    dit: GridTransformer
    """Transformer."""
    text: TextReader
    """Text encoder."""
    hash: str
    """Of the transformer's weights; adapters name it."""


def load_base(
    model: str, folder: Path, device: torch.device, dtype: torch.dtype | None = None
) -> Base:
    """Load transformer and text encoder, frozen and at rest.

    Args:
        model: A native model, or the checkout whose networks are the base.
        folder: Where the weight files of a native model are.
        device: Where they go.
        dtype: Of a checkout's weights; None: bfloat16 where that is fast. A native model's are
            float32, and products are in what autocast says.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is missing or damaged, or does not fit.
    """
    if model not in PRESETS:
        checkout = find_checkout(model)
        dit, reader = load_trunk(
            checkout.facts, device=device, dtype=dtype or choose_dtype("auto", device)
        )
        return Base(dit=dit, text=reader, hash=checkout.digests()["transformer"])
    return _load_native(model, folder, device)


def _load_native(model: str, folder: Path, device: torch.device) -> Base:
    config = PRESETS[model]
    text: TextReader
    if config.text is None:
        text = load_trained_t5(model, read_native_folder(folder).text_encoder)
    else:
        text = load_text_encoder(model, folder / "text.safetensors")
    dit = DiT(config.dit)
    load_weights(folder / "dit.safetensors", dit)
    base_hash = hash_tensors(dit.state_dict())
    for network in (text, dit):
        network.to(device).eval().requires_grad_(False)
    return Base(dit=dit, text=text, hash=base_hash)


def load_trained_t5(model: str, source: str) -> T5TextEncoder:
    """Load the T5 that a preset reads its text with, frozen.

    Args:
        model: The preset.
        source: T5 folder or `hf:OWNER/REPO[@REVISION]`, which is downloaded if it is not here.

    Raises:
        UsageError: transformers is not installed.
        WeightsError: It is missing or damaged, or its embeddings have another width.
        NetworkError: A download failed, or would be needed and is forbidden.
    """
    return load_t5_for(PRESETS[model], source, training_spec(model).text_limit)


def load_autoencoder(
    model: str, folder: Path, device: torch.device, *, channels_last: bool = False
) -> VideoCodec:
    """Load the autoencoder, frozen and at rest.

    Args:
        model: A native model, or a checkout.
        folder: Where the weight files of a native model are.
        device: Where it goes.
        channels_last: Lay its weights out as is fastest for stages that encode clips at every
            step; sums are rounded in another order then. A checkout's stay as they are.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: The file is missing or damaged, or does not fit.
    """
    if model not in PRESETS:
        return load_codec(find_checkout(model).facts, device=device)
    autoencoder = Autoencoder(PRESETS[model].autoencoder)
    load_weights(folder / "autoencoder.safetensors", autoencoder)
    if channels_last:
        autoencoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return autoencoder.to(device).eval().requires_grad_(False)


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


def names_tags(recipe: TrainRecipe) -> bool:
    """Return True if texts may name tags: of grids that Multi-DC made, or for it to read."""
    made = isinstance(recipe.loss, GridLoss) and recipe.loss.made_share > 0
    return made or recipe.dc_strength > 0


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
