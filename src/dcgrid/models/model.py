"""A model as it was resolved from what `--model` names: its facts and files, and how it is loaded.

    name, folder or repository id --find_model--> Model --load--> Backbone

registry.py resolves, native/model.py and wan/model.py are the two kinds. Nothing is read but small
files of configs, so that a plan can ask all of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import torch

from dcgrid import hub
from dcgrid.errors import DcgridError
from dcgrid.models.base import Backbone, ModelSpec

if TYPE_CHECKING:
    from dcgrid.models.attention_choice import AttentionName
    from dcgrid.models.native.text import WordTokenizer
    from dcgrid.models.quantize import Quantize
    from dcgrid.models.wan.counts import WanSizes
    from dcgrid.runtime.offload import Offload

Count = Callable[[str], int]
"""Returns the tokens of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a checkout's weights are while they are not needed, and how it computes."""

    offload: "Offload | Literal['auto']" = "none"
    """"auto" is for plans: the fastest mode that fits."""
    quantize: "Quantize" = "none"
    attention: "AttentionName" = "auto"
    """Which kernel attends."""
    compiled: bool = False
    """True: blocks run as code of torch's compiler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSize:
    """What decides how much memory a grid takes."""

    cells: int
    given: int
    """Given cells of which keys and values are kept."""
    frames: int
    """Pixel frames of a cell."""
    height: int
    width: int
    guided: bool
    """True: some cell is guided, so there are two texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What a run takes, and how its model is loaded."""

    device_bytes: int
    """Peak on the device; on a CPU of all."""
    host_bytes: int = 0
    """Peak of the host's memory beside a GPU; 0: not worth a word."""
    offload: "Offload" = "none"
    quantize: "Quantize" = "none"

    @property
    def settings(self) -> str:
        """What a plan says of it; empty where all is as usual."""
        words = [f"--offload {self.offload}"] if self.offload != "none" else []
        words += [f"--quantize {self.quantize}"] if self.quantize != "none" else []
        return " ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCounter:
    """How a model's texts are counted."""

    of_segment: Count
    """Tokens of a segment as it is encoded, its end token among them."""
    of_words: Count
    """Tokens that a piece of text adds to a segment; no end token."""
    most: Count
    """At least as many as `of_segment` says, found without a tokenizer."""
    whole_cell: bool
    """True: the limit is of all that a cell reads. False: of each segment."""


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A model that can be planned with, and loaded once it is here."""

    name: str
    """What the user calls it: a name, or a folder."""
    spec: ModelSpec
    """What plans, readers and samplers need to know of it."""

    @property
    def is_here(self) -> bool:
        """False: it has to be downloaded first; see `fetched`."""
        return True

    @property
    def in_package(self) -> bool:
        """True: it comes with the program, adapters and all."""
        return False

    @property
    def files(self) -> Mapping[str, Path]:
        """Weight files by part, adapters included; empty for `tiny` and for checkouts."""
        return {}

    @property
    def sizes(self) -> "WanSizes | None":
        """The configs of a checkout's networks; None: it is one of the program's own models."""
        return None

    @property
    def download_bytes(self) -> int | None:
        """Bytes that are still to be downloaded; None: not known before the hub is asked."""
        return 0

    @property
    @abstractmethod
    def text_width(self) -> int:
        """E, the width of its text embeddings and of tags."""

    @abstractmethod
    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each weight file that is there, by the part it holds.

        Raises:
            WeightsError: The model is not here.
        """

    @abstractmethod
    def text_counter(self, tags: Sequence[str] = ()) -> TextCounter | None:
        """Return how its texts are counted, without loading it; None: its tokenizer is not here.

        Args:
            tags: Tags that texts may name, one token each.

        Raises:
            UsageError: An extra is not installed.
            WeightsError: It has no tokenizer, or a damaged one.
        """

    @abstractmethod
    def load(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        placement: Placement | None = None,
    ) -> Backbone:
        """Load the model.

        Args:
            device: Where the weights go.
            dtype: Precision of matrix products; a native model's weights stay float32 on a CPU,
                where autocast's cast of them is cheap beside the products.
            placement: Where a checkout's weights are meanwhile; None: on the device.

        Raises:
            UsageError: An extra is not installed.
            WeightsError: A weight file is missing, damaged or of another shape.
        """

    @abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters of the network that adapters attach to, by name.

        Raises:
            WeightsError: Weights are missing or damaged.
        """

    @abstractmethod
    def memory_need(
        self,
        size: GridSize,
        placement: Placement,
        device: torch.device,
        dtype: torch.dtype,
        free_bytes: tuple[int, int],
    ) -> MemoryNeed:
        """Return what a grid takes, and how the model is loaded for it.

        Args:
            size: Of the grid.
            placement: What was requested.
            device: Where it runs.
            dtype: Number format.
            free_bytes: Of the device and of the host; 0: unknown.

        Raises:
            UsageError: What is for large models is requested of a small one.
            DeviceError: No mode fits.
        """

    @abstractmethod
    def check_processes(self, count: int, texts: Sequence[int]) -> str:
        """Check that several processes can generate grids together, before anything is loaded.

        Args:
            count: How many processes, more than one.
            texts: Texts that guidance reads in each grid, 1 or 2.

        Returns:
            What each of them does, a sentence.

        Raises:
            UsageError: The model runs in one process, or its heads do not come out even.
        """

    def explain_full(self, error: BaseException, need: MemoryNeed) -> DcgridError | None:
        """Return what to report where memory ran out, and what to try next; None: nothing."""
        del error, need
        return None

    def word_tokenizer(self, tags: Sequence[str] = ()) -> "WordTokenizer | None":
        """Return the tokenizer of a model that reads a list of words; None: it reads pieces.

        Raises:
            WeightsError: Its text encoder is damaged.
        """
        del tags
        return None

    def adapter(self, mode: str) -> str:
        """Return the weight reference of its own Grid-Fill adapter; "none": it has none.

        Args:
            mode: What its grids show: "consistent" or "composition".
        """
        published = hub.default_adapter(self.name, mode)
        return "none" if published is None else published.reference

    def grid_adapter(self) -> str:
        """Return the weight reference of its own Grid LoRA (consistent mode); "none": none."""
        return "none"

    def fetched(self, *, offline: bool, report: hub.BytesReport | None) -> Self:
        """Return the model once it is here; what is missing is downloaded.

        Args:
            offline: True: nothing is downloaded.
            report: Gets the bytes that have arrived.

        Raises:
            NetworkError: The download failed or the network is off.
            OutputError: The disk is too small.
            WeightsError: What came is not what the hub says.
        """
        del offline, report
        return self
