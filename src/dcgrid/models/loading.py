"""Makes backbones from names. Read `load_backbone`.

Weights of `mini` are inside the package; `tiny` has seeded random weights and is for tests; those
of `paper` were never published and those of `paper-small` are not shipped, so both are trained
first, and the folder of what was trained is the model's name. Any other model is a Wan checkout:
one of the hub's by its name, or a folder in the layout of diffusers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from dcgrid import hub
from dcgrid.errors import UsageError, WeightsError
from dcgrid.hub import file_sha256
from dcgrid.models.attention_choice import AttentionName
from dcgrid.models.base import Backbone, ModelSpec
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.backbone import NativeBackbone, NativeParts
from dcgrid.models.native.config import NativeConfig
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.folder import is_native_folder, read_native_folder
from dcgrid.models.native.presets import NATIVE
from dcgrid.models.native.t5 import T5TextEncoder, load_t5
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.models.quantize import Quantize
from dcgrid.models.weights import load_weights, read_weights
from dcgrid.runtime.offload import Offload

# Wan's modules are imported where a Wan model is meant: with them comes torch's compiler, which
# takes as long to import as torch itself.
if TYPE_CHECKING:
    from dcgrid.models.wan.counts import WanSizes

PART_NAMES = ("autoencoder", "text", "dit")
"""Weight files of a native model, `<part>.safetensors`."""
ADAPTER_NAMES: Mapping[str, str] = MappingProxyType(
    {"consistent": "fill", "composition": "fill-composition"}
)
"""Its Grid-Fill adapters by what their grids show, files of the same form."""
GRID_NAME = "grid"
"""Its Grid LoRA of consistent mode."""
EARLIER_NAMES = ("dc", "dc-tokens", GRID_NAME, "grid-composition-a", "grid-composition-b")
"""What the two earlier stages of the method made: Multi-DC with its tokens, and Grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a checkout's weights are while they are not needed, and how it computes."""

    offload: Offload = "none"
    quantize: Quantize = "none"
    attention: AttentionName = "auto"
    """Which kernel attends."""
    compiled: bool = False
    """True: blocks run as code of torch's compiler."""


_WITH_WEIGHTS = ("mini", "tiny")
"""Presets that can be loaded by their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Native:
    """A native model, found by its name or folder."""

    spec: ModelSpec
    config: NativeConfig
    folder: Path | None
    """Where its weight files are; None: random weights, for tests."""
    text_encoder: str = ""
    """T5 folder or repository; empty: the text encoder is one of the weight files."""


def _find_native(name: str) -> _Native:
    """Return one of the program's own models: of the package, or trained into a folder.

    Raises:
        UsageError: It is a preset whose weights have to be trained first.
        WeightsError: The folder's config.json is damaged.
    """
    if name in _WITH_WEIGHTS:
        spec, config = NATIVE[name]
        folder = None if name == "tiny" else weights_folder(name)
        return _Native(spec=spec, config=config, folder=folder)
    if name in NATIVE:
        raise UsageError(
            f"{name} has no weights of its own: it is a preset to train",
            hint=f"train its stages (docs/models/paper.md), then use --model runs/{name}",
        )
    found = read_native_folder(Path(name).expanduser())
    return _Native(
        spec=NATIVE[found.preset][0],
        config=found.config,
        folder=found.path,
        text_encoder=found.text_encoder,
    )


def list_models() -> tuple[ModelSpec, ...]:
    """Return the facts of the program's own models that have weights."""
    return tuple(NATIVE[name][0] for name in _WITH_WEIGHTS)


def is_native(name: str) -> bool:
    """Return True if a name means one of the program's own models, or the folder of one."""
    return name in NATIVE or is_native_folder(Path(name).expanduser())


def training_spec(name: str) -> ModelSpec:
    """Return the facts of a model to train, or to train on; a preset needs no weights for that.

    Raises:
        UsageError: No model has that name.
        WeightsError: It is a folder, but nothing that can be used.
    """
    return NATIVE[name][0] if name in NATIVE else model_spec(name)


def model_spec(name: str) -> ModelSpec:
    """Return the facts of one model, without loading it.

    Raises:
        UsageError: No model has that name, or it is a preset without weights.
        WeightsError: It is a folder, but nothing that can be used.
    """
    if is_native(name):
        return _find_native(name).spec
    from dcgrid.models.wan.checkpoint import known_spec, read_checkout

    if name not in hub.MODELS:
        return read_checkout(checkout_folder(name)).spec
    source, folder = hub.MODELS[name], hub.locate_model(name)
    spec = known_spec(name) if folder is None else read_checkout(folder).spec
    commit = source.revision if folder is None else folder.name
    return replace(spec, name=name, license=source.license, repo=source.repo, revision=commit)


def is_here(name: str) -> bool:
    """Return False if a model has to be downloaded first."""
    return name not in hub.MODELS or hub.locate_model(name) is not None


def checkout_folder(name: str) -> Path:
    """Return the folder of a Wan checkout.

    Raises:
        UsageError: Neither a model nor a folder has that name.
        WeightsError: It is a folder, but not in the layout of diffusers; or a model of the hub
            that is not here.
    """
    if name in hub.MODELS:
        found = hub.locate_model(name)
        if found is None:
            raise WeightsError(f"{name} is not here", hint=f"dcgrid models pull {name}")
        return found
    from dcgrid.models.wan.checkpoint import is_checkout

    folder = Path(name).expanduser()
    if is_checkout(folder):
        return folder
    if folder.is_dir():
        raise WeightsError(
            f"{folder} is no model: it has no model_index.json, and no config.json of dcgrid train",
            hint="name a folder in the layout of diffusers, such as a copy of "
            "Wan-AI/Wan2.2-TI2V-5B-Diffusers, or one that dcgrid train made",
        )
    known = [*NATIVE, *hub.MODELS]
    near = get_close_matches(name, known, n=1)
    raise UsageError(
        f"no model is called {name!r}, and no folder",
        hint=f"did you mean {near[0]!r}?" if near else f"models: {', '.join(known)}",
    )


def weights_folder(name: str) -> Path:
    """Return the folder where a native model's weights are: inside the package, or its own."""
    if name not in NATIVE and is_native(name):
        return Path(name).expanduser()
    return Path(__file__).parent / "weights" / name


def weight_files(name: str, weights_dir: Path | None = None) -> dict[str, Path]:
    """Return the weight files of a native model by part, adapters included.

    Of a model that was trained into a folder, those that are there. Empty for `tiny`, and for
    checkouts, whose parts have several files each.
    """
    if weights_dir is None and (name == "tiny" or not is_native(name)):
        return {}
    folder = weights_dir or weights_folder(name)
    parts = (*PART_NAMES, *EARLIER_NAMES, *ADAPTER_NAMES.values())
    files = {part: folder / f"{part}.safetensors" for part in parts}
    if weights_dir is not None or name in NATIVE:
        return files
    return {part: path for part, path in files.items() if path.is_file()}


def weight_digests(
    name: str, weights_dir: Path | None = None, parts: Sequence[str] = PART_NAMES
) -> dict[str, str]:
    """Return the SHA-256 of those weight files of a model that are there.

    Args:
        name: The model.
        weights_dir: Folder of a native model's files; None: the package's own.
        parts: Which of a native model's parts; of a checkout all are.

    Raises:
        WeightsError: A checkout has changed into something else.
    """
    if not is_native(name):
        from dcgrid.models.wan.checkpoint import read_checkout
        from dcgrid.models.wan.digests import part_digests

        return part_digests(read_checkout(checkout_folder(name)).files)
    files = weight_files(name, weights_dir)
    there = {part: files[part] for part in parts if part in files and files[part].exists()}
    return {part: file_sha256(path) for part, path in there.items()}


def wan_sizes(name: str) -> "WanSizes":
    """Return the configs of a checkout's networks; of a named model without a download.

    Raises:
        UsageError: No model has that name.
        WeightsError: It is a folder, but no checkout that can be used.
    """
    from dcgrid.models.wan.checkpoint import read_checkout
    from dcgrid.models.wan.counts import WanSizes

    if not is_here(name):
        return WanSizes.known(name)
    folder = checkout_folder(name)
    read_checkout(folder)  # tells what is wrong with it
    return replace(WanSizes.of_checkout(folder), name=name)


def text_encoder_of(name: str) -> str:
    """Return the T5 that a model of ours reads text with; empty: it has an encoder of its own.

    Raises:
        UsageError: It is a preset without weights.
        WeightsError: The folder's config.json is damaged.
    """
    return _find_native(name).text_encoder


def text_width(name: str) -> int:
    """Return the width that tags of a model have, E, without loading it.

    Raises:
        UsageError: No model has that name.
        WeightsError: It is a folder, but no checkout that can be used.
    """
    if is_native(name):
        config = _find_native(name).config
        return config.dit.text_width if config.text is None else config.text.width
    return int(wan_sizes(name).text["d_model"])


def load_backbone(
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights_dir: Path | None = None,
    placement: Placement | None = None,
) -> Backbone:
    """Load a model by name.

    Args:
        name: "mini", "tiny", a model of the hub that is here, or the folder of a checkout.
        device: Where the weights go.
        dtype: Precision of matrix products; a native model's weights stay float32 on a CPU, where
            autocast's cast of them is cheap beside the products.
        weights_dir: Folder of a native model's weight files; None: the package's own.
        placement: Where a checkout's weights are meanwhile; None: on the device.

    Raises:
        UsageError: No model has that name, or an extra is not installed.
        WeightsError: A weight file is missing, damaged or of another shape.
    """
    if not is_native(name):
        from dcgrid.models.wan.backbone import load_wan

        where = placement or Placement()
        backbone = load_wan(
            checkout_folder(name),
            device=device,
            dtype=dtype,
            offload=where.offload,
            quantize=where.quantize,
            attention=where.attention,
        )
        if where.compiled:
            backbone.compile_blocks()
        return backbone
    return load_native(name, device=device, dtype=dtype, weights_dir=weights_dir)


def load_native(
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights_dir: Path | None = None,
) -> NativeBackbone:
    """Load one of the program's own models; see `load_backbone`."""
    native = _find_native(name)
    folder, feeds_back = weights_dir or native.folder, native.config.dit.self_conditioning
    if folder is None:
        parts = _random_parts(native.config)
    else:
        parts, feeds_back = _load_parts(native, folder)
    for module in parts.modules():
        module.to(device)
    return NativeBackbone(replace(native.spec, self_conditioning=feeds_back), parts, dtype)


def _random_parts(config: NativeConfig) -> NativeParts:
    """Build networks with seeded random weights; the global random state is not touched."""
    if config.text is None:
        raise WeightsError("this preset has no text encoder of its own")
    words = ("the", "subject", "motion", "in", "rain", "night", "smoke", "clip", "original")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = NativeParts(
            autoencoder=Autoencoder(config.autoencoder),
            dit=DiT(config.dit),
            text=TextEncoder(config.text, WordTokenizer(words)),
        )
        # Layers that start at zero would make a network that ignores its input.
        for module in parts.modules():
            for parameter in module.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.02)
    return parts


def load_t5_for(config: NativeConfig, source: str, limit: int) -> T5TextEncoder:
    """Load the T5 that a native model reads its text with.

    Args:
        config: Sizes of the model.
        source: T5 folder or `hf:OWNER/REPO[@REVISION]`, which is downloaded if it is not here.
        limit: Most tokens of one segment.

    Raises:
        UsageError: transformers is not installed.
        WeightsError: It is missing or damaged, or its embeddings have another width.
        NetworkError: A download failed, or would be needed and is forbidden.
    """
    encoder = load_t5(source, limit=limit, offline=hub.is_offline())
    if encoder.width != config.dit.text_width:
        raise WeightsError(
            f"the T5 in {source} has embeddings of {encoder.width} channels, the transformer reads "
            f"{config.dit.text_width}",
            hint="name another T5 in the recipe's text_encoder",
        )
    return encoder


def load_text_encoder(name: str, path: Path) -> TextEncoder:
    """Load the text encoder of a preset; its vocabulary is in the weight file.

    Raises:
        WeightsError: The file is missing, damaged or of another shape.
    """
    return _own_text(NATIVE[name][1], path)


def _own_text(native: NativeConfig, path: Path) -> TextEncoder:
    config = native.text
    if config is None:
        raise WeightsError(f"{path} is of a model that reads no list of words")
    encoder = TextEncoder(config, WordTokenizer(read_vocabulary(path)))
    load_weights(path, encoder)
    return encoder


def read_vocabulary(path: Path) -> list[str]:
    """Return the words that a text encoder knows, from its weight file.

    Raises:
        WeightsError: The file is missing or damaged, or names none.
    """
    words = read_weights(path)[1].get("vocabulary")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise WeightsError(f"{path} names no vocabulary", hint="install dcgrid again")
    return words


def _load_parts(native: _Native, folder: Path) -> tuple[NativeParts, bool]:
    """Return the networks, and True if the transformer was trained to read its last estimate."""
    config = native.config
    files = {part: folder / f"{part}.safetensors" for part in PART_NAMES}
    text = (
        load_t5_for(config, native.text_encoder, native.spec.text_limit)
        if native.text_encoder
        else _own_text(config, files["text"])
    )
    parts = NativeParts(
        autoencoder=Autoencoder(config.autoencoder),
        dit=DiT(config.dit),
        text=text,
    )
    load_weights(files["autoencoder"], parts.autoencoder)
    facts = load_weights(files["dit"], parts.dit)
    return parts, config.dit.self_conditioning and facts.get("self_conditioning") == "true"
