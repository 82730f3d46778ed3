"""The program's own models: found by name or folder, and loaded. Read `NativeModel`."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from dcgrid import hub
from dcgrid.errors import UsageError, WeightsError
from dcgrid.models.model import Count, GridSize, MemoryNeed, Model, Placement, TextCounter
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import NativeConfig
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.folder import is_native_folder, read_native_folder
from dcgrid.models.native.presets import NATIVE
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.models.trunk import NetworkBackbone, NetworkParts
from dcgrid.models.weights import load_weights, read_weights

if TYPE_CHECKING:
    from dcgrid.models.native.t5 import T5TextEncoder

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
_BASE_BYTES, _BYTES_PER_PIXEL = 350 * 1024 * 1024, 1100
"""Measured on `mini`, see `native_bytes`."""
_WITH_WEIGHTS = ("mini", "tiny")
"""Presets that can be loaded by their name."""


@dataclass(frozen=True, kw_only=True)
class NativeModel(Model):
    """One of the program's own models: of the package, or trained into a folder."""

    config: NativeConfig
    """Sizes of its networks."""
    folder: Path | None
    """Where its weight files are; None: random weights, for tests."""
    text_encoder: str = ""
    """T5 folder or repository; empty: the text encoder is one of the weight files."""

    @property
    def in_package(self) -> bool:
        """True: it is named by its preset."""
        return self.name in NATIVE

    @property
    def files(self) -> Mapping[str, Path]:
        """Weight files by part, adapters included; of a trained folder those that are there."""
        if self.folder is None:
            return {}
        parts = (*PART_NAMES, *EARLIER_NAMES, *ADAPTER_NAMES.values())
        files = {part: self.folder / f"{part}.safetensors" for part in parts}
        if self.in_package:
            return files
        return {part: path for part, path in files.items() if path.is_file()}

    @property
    def text_width(self) -> int:
        """E, the width of its text embeddings."""
        text = self.config.text
        return self.config.dit.text_width if text is None else text.width

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of its networks' files, by part."""
        files = {part: path for part, path in self.files.items() if part in PART_NAMES}
        return {part: hub.file_sha256(path) for part, path in files.items() if path.exists()}

    def adapter(self, mode: str) -> str:
        """Return the reference of its Grid-Fill adapter: in the package, or beside its weights."""
        own = self._reference(ADAPTER_NAMES[mode])
        return super().adapter(mode) if own == "none" else own

    def grid_adapter(self) -> str:
        """Return the reference of its Grid LoRA."""
        return self._reference(GRID_NAME)

    def _reference(self, part: str) -> str:
        path = self.files.get(part)
        if path is None:
            return "none"
        return f"package:{self.name}/{path.name}" if self.in_package else str(path)

    def text_counter(self, tags: Sequence[str] = ()) -> TextCounter | None:
        """Return how its texts are counted; see `Model`."""
        if self.text_encoder:
            from dcgrid.models.native.t5 import missing_t5_files

            missing = missing_t5_files(self.text_encoder)
            return None if missing else _t5_counter(self.text_encoder, tags)
        words = WordTokenizer((), tags)

        def count(text: str) -> int:
            return len(words.tokens(text))

        return TextCounter(of_segment=count, of_words=count, most=count, whole_cell=False)

    def word_tokenizer(self, tags: Sequence[str] = ()) -> WordTokenizer | None:
        """Return the tokenizer of its own text encoder; None: T5 reads its text."""
        path = self.files.get("text")
        if self.text_encoder or path is None or not path.is_file():
            return None
        return WordTokenizer(_read_vocabulary(path), tags)

    def load(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        placement: Placement | None = None,
    ) -> NetworkBackbone:
        """Load the model; see `Model.load`. It is always whole on its device."""
        del placement
        feeds_back = self.config.dit.self_conditioning
        if self.folder is None:
            parts = _random_parts(self.config)
        else:
            parts, feeds_back = self._load_parts(self.folder)
        for module in parts.modules():
            module.to(device)
        return NetworkBackbone(replace(self.spec, self_conditioning=feeds_back), parts, dtype)

    def _load_parts(self, folder: Path) -> tuple[NetworkParts, bool]:
        """Return the networks; True: the transformer was trained to read its last estimate."""
        config = self.config
        files = {part: folder / f"{part}.safetensors" for part in PART_NAMES}
        parts = NetworkParts(
            autoencoder=Autoencoder(config.autoencoder),
            dit=DiT(config.dit),
            text=(
                load_t5_for(config, self.text_encoder, self.spec.text_limit)
                if self.text_encoder
                else _own_text(config, files["text"])
            ),
        )
        load_weights(files["autoencoder"], parts.autoencoder)
        facts = load_weights(files["dit"], parts.dit)
        feeds_back = facts.get("self_conditioning") == "true"
        return parts, config.dit.self_conditioning and feeds_back

    def memory_need(
        self,
        size: GridSize,
        placement: Placement,
        device: torch.device,
        dtype: torch.dtype,
        free_bytes: tuple[int, int],
    ) -> MemoryNeed:
        """Return what a grid takes; see `Model.memory_need`. The model is whole on its device."""
        del device, dtype, free_bytes
        if placement.offload not in ("auto", "none") or placement.quantize != "none":
            raise UsageError(
                f"{self.name} is small enough to be whole in memory",
                hint="leave out --offload and --quantize",
            )
        if placement.attention != "auto" or placement.compiled:
            raise UsageError(
                f"{self.name} computes in one way only",
                hint="leave out --attention and --compile: they are for Wan models",
            )
        # Weights of the package are among what was measured. Others are stored in half of float32,
        # unless a recipe says otherwise.
        files = {} if self.in_package else self.files
        weights = sum(2 * files[part].stat().st_size for part in PART_NAMES if part in files)
        return MemoryNeed(device_bytes=native_bytes(size.frames, size.height, size.width) + weights)

    def check_processes(self, count: int, texts: Sequence[int]) -> str:
        """Refuse several processes."""
        del texts
        raise UsageError(
            f"{self.name} generates in one process, not in {count}",
            hint="start it without torchrun; Wan models take several",
        )

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the transformer's parameters; nothing is loaded."""
        with torch.device("meta"):
            named = DiT(self.config.dit).named_parameters()
        return {name: tuple(one.shape) for name, one in named}


def native_bytes(frames: int, height: int, width: int) -> int:
    """Estimate what a native model takes: the program itself, and the decoder, its widest part.

    Args:
        frames: Pixel frames of a window.
        height: Pixel rows of a cell.
        width: Pixel columns of a cell.

    Returns:
        Bytes; measured with `mini` on a CPU, within about a third there, rougher elsewhere.
    """
    return _BASE_BYTES + frames * height * width * _BYTES_PER_PIXEL


def find_native(name: str, *, to_train: bool = False) -> NativeModel | None:
    """Return one of the program's own models; None: the name means no such model.

    Args:
        name: A preset, or the folder of a model that was trained here.
        to_train: True: a preset needs no weights.

    Raises:
        UsageError: It is a preset whose weights have to be trained first.
        WeightsError: The folder's config.json is damaged.
    """
    if name in _WITH_WEIGHTS or (to_train and name in NATIVE):
        spec, config = NATIVE[name]
        folder = None if name == "tiny" else weights_folder(name)
        return NativeModel(name=name, spec=spec, config=config, folder=folder)
    if name in NATIVE:
        raise UsageError(
            f"{name} has no weights of its own: it is a preset to train",
            hint=f"train its stages (docs/models/paper.md), then use --model runs/{name}",
        )
    path = Path(name).expanduser()
    if not is_native_folder(path):
        return None
    found = read_native_folder(path)
    return NativeModel(
        name=name,
        spec=NATIVE[found.preset][0],
        config=found.config,
        folder=found.path,
        text_encoder=found.text_encoder,
    )


def package_models() -> tuple[NativeModel, ...]:
    """Return the program's own models that have weights."""
    return tuple(model for name in _WITH_WEIGHTS if (model := find_native(name)) is not None)


def weights_folder(preset: str) -> Path:
    """Return the folder inside the package where the weights of a preset are, if it has any."""
    return Path(__file__).parents[1] / "weights" / preset


def _random_parts(config: NativeConfig) -> NetworkParts:
    """Build networks with seeded random weights; the global random state is not touched."""
    if config.text is None:
        raise WeightsError("this preset has no text encoder of its own")
    words = ("the", "subject", "motion", "in", "rain", "night", "smoke", "clip", "original")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = NetworkParts(
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


def load_t5_for(config: NativeConfig, source: str, limit: int) -> "T5TextEncoder":
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
    from dcgrid.models.native.t5 import load_t5

    encoder = load_t5(source, limit=limit, offline=hub.is_offline())
    if encoder.width != config.dit.text_width:
        raise WeightsError(
            f"the T5 in {source} has embeddings of {encoder.width} channels, the transformer reads "
            f"{config.dit.text_width}",
            hint="name another T5 in the recipe's text_encoder",
        )
    return encoder


def load_text_encoder(preset: str, path: Path) -> TextEncoder:
    """Load the text encoder of a preset; its vocabulary is in the weight file.

    Raises:
        WeightsError: The file is missing, damaged or of another shape.
    """
    return _own_text(NATIVE[preset][1], path)


def _own_text(config: NativeConfig, path: Path) -> TextEncoder:
    if config.text is None:
        raise WeightsError(f"{path} is of a model that reads no list of words")
    encoder = TextEncoder(config.text, WordTokenizer(_read_vocabulary(path)))
    load_weights(path, encoder)
    return encoder


def _read_vocabulary(path: Path) -> list[str]:
    words = read_weights(path)[1].get("vocabulary")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise WeightsError(f"{path} names no vocabulary", hint="install dcgrid again")
    return words


def _t5_counter(source: str, tags: Sequence[str]) -> TextCounter:
    """Return how texts are counted that T5 reads; its tokenizer is loaded when it is needed."""
    from dcgrid.models.native.t5 import t5_counter

    counts: list[Count] = []

    def pieces(text: str) -> int:
        if not counts:
            counts.append(t5_counter(source, tags))
        return counts[0](text)

    return TextCounter(
        of_segment=lambda text: pieces(text) + 1,
        of_words=pieces,
        most=lambda text: len(unicodedata.normalize("NFKC", text).encode()) + 2,
        whole_cell=False,
    )
