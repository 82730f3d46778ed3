"""The networks of a Wan checkout, read from disk and put where an offload mode wants them.

mode    text encoder   transformer                         autoencoder
none    device         device                              device
model   host, whole    host, whole                         host, whole       one at a time
block   host, whole    host, two blocks at a time + rest   host, whole       on the device
disk    files, whole   files, two blocks at a time + rest  host, whole
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dcgrid.errors import UsageError, WeightsError
from dcgrid.models.quantize import Quantize, quantize_linears
from dcgrid.models.wan.checkpoint import WanFacts
from dcgrid.models.wan.stored import (
    StoredWeights,
    block_on_disk,
    check_finite,
    text_skeleton,
    wan_skeleton,
)
from dcgrid.models.wan.text import SegmentEncoder
from dcgrid.runtime.install import install_hint
from dcgrid.runtime.offload import BlockRing, InMemory, Layout, Offload, OnDisk, Staging
from dcgrid.runtime.residence import Residence, Stage, Whole

Foreign: TypeAlias = Any
"""A module of diffusers or transformers, whose parts their types do not tell."""

LINE = 64
"""Bytes; the multiples at which allocators begin a tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanParts:
    """The networks of a checkout, and where they are."""

    transformer: Foreign
    """`diffusers.WanTransformer3DModel`."""
    vae: Foreign
    """`diffusers.AutoencoderKLWan`."""
    segments: SegmentEncoder
    """Tokenizer and `transformers.UMT5EncoderModel`."""
    device: torch.device | None = None
    """Where they compute; None: where the transformer is."""
    offload: Offload = "none"
    quantize: Quantize = "none"
    """How the weights of the transformer's blocks are stored."""
    ring: BlockRing | None = None
    """Brings the transformer's blocks; None: they are where it is."""
    residence: Residence = field(default_factory=Residence)
    """Brings text, transformer and vae."""

    def blocks(self) -> Iterable[nn.Module]:
        """Return the transformer's blocks for one forward, each ready when its turn comes."""
        if self.ring is not None:
            return self.ring.run()
        blocks: Iterable[nn.Module] = self.transformer.blocks
        return blocks


def load_parts(
    facts: WanFacts,
    dtype: torch.dtype,
    *,
    device: torch.device | str,
    offload: Offload,
    quantize: Quantize,
) -> WanParts:
    """Read the networks of a checkout and put them where they belong.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is damaged or does not fit, or numbers are not finite.
    """
    # With its number: "cuda" and "cuda:0" would not be equal.
    device = torch.empty(0, device=device).device
    folder = facts.folder
    vae = load_vae(folder)
    if offload == "disk":
        tokenizer = load_tokenizer(folder)
        with _told(folder):
            return _from_disk(facts, dtype, (tokenizer, vae), device, quantize)
    transformer, segments = load_networks(folder, dtype)
    if quantize != "none":
        quantize_linears(transformer.blocks, quantize)
    parts = WanParts(transformer=transformer, vae=vae, segments=segments, quantize=quantize)
    return place_parts(parts, device=device, offload=offload)


def load_vae(folder: Path) -> Foreign:
    """Read the autoencoder of a checkout, float32, frozen, tiled where a picture is large.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is damaged or does not fit, or numbers are not finite.
    """
    diffusers, _ = _libraries()
    vae = _read(diffusers.AutoencoderKLWan, folder / "vae", torch_dtype=torch.float32)
    vae.enable_tiling()
    vae.requires_grad_(False)
    return vae


def load_networks(folder: Path, dtype: torch.dtype) -> tuple[Foreign, SegmentEncoder]:
    """Read transformer and text encoder of a checkout into memory, frozen.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is damaged or does not fit, or numbers are not finite.
    """
    diffusers, transformers = _libraries()
    tokenizer = load_tokenizer(folder)
    transformer = _read(diffusers.WanTransformer3DModel, folder / "transformer", torch_dtype=dtype)
    encoder = _read(transformers.UMT5EncoderModel, folder / "text_encoder", dtype=dtype)
    for module in (transformer, encoder):
        module.requires_grad_(False)
    return transformer, SegmentEncoder(tokenizer, encoder)


def place_parts(parts: WanParts, *, device: torch.device, offload: Offload) -> WanParts:
    """Return the parts as an offload mode has them; adapters may be on the transformer already.

    Args:
        parts: In memory, not offloaded yet; their weights are moved.
        device: Where they compute.
        offload: "none", "model" or "block"; "disk" is for `load_parts`, which never has the
            weights in memory.

    Raises:
        ValueError: The mode is "disk", or the parts are offloaded already.
    """
    if offload == "disk" or parts.offload != "none":
        raise ValueError(f"parts that are offloaded by {parts.offload} cannot be by {offload}")
    transformer, vae, encoder = parts.transformer, parts.vae, parts.segments.encoder
    if offload == "none":
        for module in (transformer, vae, encoder):
            module.to(device)
            align(module)
        return replace(parts, device=device)
    pin = device.type == "cuda"
    ring, stages = None, []
    if offload == "block":
        hosts = [InMemory(frozen(block), pin=pin) for block in transformer.blocks]
        ring = BlockRing(list(transformer.blocks), hosts, device)
        stages = _beside_ring(transformer, ring, device)
    else:
        stages = [Whole(transformer, InMemory(frozen(transformer), pin=False), device)]
    residence = Residence(
        {
            "text": [Whole(encoder, InMemory(frozen(encoder), pin=False), device)],
            "transformer": stages,
            "vae": [Whole(vae, InMemory(frozen(vae), pin=False), device)],
        }
    )
    return replace(parts, device=device, offload=offload, ring=ring, residence=residence)


def align(module: nn.Module) -> None:
    """Move numbers that begin anywhere, as in a mapped file, to where an allocator puts them.

    On a CPU the last bits of a product depend on it; every mode is to give the same.
    """
    for parameter in module.parameters():
        if parameter.data_ptr() % LINE:
            parameter.data = parameter.data.clone()


def frozen(module: nn.Module) -> list[Tensor]:
    """Return parameters and buffers of a module, without those of adapters."""
    named = (*module.named_parameters(), *module.named_buffers())
    return [tensor for name, tensor in named if "lora_" not in name and not tensor.requires_grad]


def _from_disk(
    facts: WanFacts,
    dtype: torch.dtype,
    ready: tuple[Foreign, Foreign],
    device: torch.device,
    quantize: Quantize,
) -> WanParts:
    """Return parts whose transformer blocks and text encoder are read at every visit.

    Args:
        facts: Names the files.
        dtype: Of transformer and text encoder.
        ready: Tokenizer, and the autoencoder in memory: it is small.
        device: Where they compute.
        quantize: The blocks' weights are rounded when they are read.
    """
    tokenizer, vae = ready
    pin = device.type == "cuda"
    stored = StoredWeights(facts.files["transformer"])
    stored.check_finite()
    transformer = wan_skeleton(facts.transformer, stored, dtype)
    if quantize != "none":
        quantize_linears(transformer.blocks, quantize)
    entries = [
        block_on_disk(block, f"blocks.{number}", stored)
        for number, block in enumerate(transformer.blocks)
    ]
    staging = Staging(Layout.of(entries[0][0]).size, pin=pin)
    hosts = [OnDisk(tensors, read, staging) for tensors, read in entries]
    ring = BlockRing(list(transformer.blocks), hosts, device)
    encoder, read = text_skeleton(facts.files["text_encoder"], dtype)
    text = Whole(encoder, OnDisk(list(encoder.parameters()), read), device)
    residence = Residence(
        {
            "text": [text],
            "transformer": _beside_ring(transformer, ring, device),
            "vae": [Whole(vae, InMemory(frozen(vae), pin=False), device)],
        }
    )
    return WanParts(
        transformer=transformer,
        vae=vae,
        segments=SegmentEncoder(tokenizer, encoder),
        device=device,
        offload="disk",
        quantize=quantize,
        ring=ring,
        residence=residence,
    )


def _beside_ring(transformer: Foreign, ring: BlockRing, device: torch.device) -> list[Stage]:
    """Return the stages of a transformer whose blocks a ring brings: the rest of it, and the ring.

    The blocks' weights are not the first stage's to move; what adapters add to them is.
    """
    blocks = frozenset(id(tensor) for tensor in frozen(transformer.blocks))
    rest = [tensor for tensor in frozen(transformer) if id(tensor) not in blocks]
    return [Whole(transformer, InMemory(rest, pin=False), device, apart=blocks), ring]


def _read(kind: Foreign, folder: Path, **options: torch.dtype) -> Foreign:
    """Read a network whose files have all of its numbers.

    Raises:
        WeightsError: A file is damaged or does not fit, or numbers are missing or not finite.
    """
    with _told(folder.parent):
        network, report = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    # The libraries go on without: with numbers by chance, or with none.
    if missing := sorted(report["missing_keys"]):
        raise WeightsError(f"{folder} has no {missing[0]}", hint="fetch the model again")
    for name, parameter in network.named_parameters():
        check_finite(folder, name, parameter)
    return network


def load_tokenizer(folder: Path) -> Foreign:
    """Read the tokenizer of a checkout.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: It is missing or damaged.
    """
    _, transformers = _libraries()
    path = folder / "tokenizer"
    # Of a folder that is not there transformers thinks that it is on the hub.
    if not path.is_dir():
        raise WeightsError(f"{folder} has no tokenizer", hint="fetch the model again")
    with _told(folder):
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say in our words what the libraries raise about a checkout's files."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"cannot load {folder}: {str(error)[:300]}", hint="fetch the model again"
        ) from error


def _libraries() -> tuple[Foreign, Foreign]:
    try:
        import diffusers
        import ftfy  # noqa: F401  # text is cleaned with it
        import transformers
    except ImportError as error:
        raise UsageError(f"Wan models need {error.name}", hint=install_hint("wan")) from error
    # Their bars and warnings would tear ours; what matters comes back as an exception.
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return diffusers, transformers
