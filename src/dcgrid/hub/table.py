"""The base models and adapters that can be had by name; no network, no torch.

Revisions are branches: which commit a branch meant is remembered at the first download (pins.py).

Differs: docs/decisions/0016.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath
from types import MappingProxyType

from dcgrid.errors import UsageError

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Files that run code when they are loaded, and that are never taken."""
DIFFUSERS_PATTERNS = (
    "model_index.json",
    *(
        f"{part}/{ending}"
        for part in ("transformer", "vae", "text_encoder")
        for ending in ("*.json", "*.safetensors")
    ),
    *(f"tokenizer/{ending}" for ending in ("*.json", "*.model", "*.txt")),
    "scheduler/*.json",
)
"""What diffusers' layout needs; neither pictures, pickles nor the files of other layouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A base model on the hub."""

    name: str
    """What `--model` calls it."""
    repo: str
    """Repository "owner/name"."""
    revision: str = "main"
    """Branch or tag that the first download resolves to a commit."""
    patterns: tuple[str, ...] = DIFFUSERS_PATTERNS
    """Files to take, each `folder/pattern` or `pattern`; `*` does not cross folders."""
    license: str
    """What the repository's card is known to say."""
    bytes_expected: int | None = None
    """Size of all files together; None: not known before the hub is asked."""

    def wants(self, path: str) -> bool:
        """Return True if a file of the repository belongs to the model."""
        if PurePosixPath(path).suffix.lower() in PICKLED_SUFFIXES:
            return False
        depth = path.count("/")
        return any(
            depth == pattern.count("/") and PurePosixPath(path).match(pattern)
            for pattern in self.patterns
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAdapter:
    """A published adapter of a base model."""

    name: str
    """What listings call it."""
    base: str
    """Name of the model that it is for."""
    mode: str
    """What its grids show, "consistent" or "composition"."""
    repo: str
    """Repository "owner/name"."""
    revision: str
    """Commit, tag or branch."""
    path: str
    """The file inside the repository."""
    sha256: str
    """Hash of the file in hex."""
    bytes: int
    """Size of the file."""
    license: str
    """What the repository's card says."""

    @property
    def reference(self) -> str:
        """What `fetch_weights` takes."""
        return f"hf:{self.repo}@{self.revision}/{self.path}"


_WAN = (
    HubModel(name="wan2.2-5b", repo="Wan-AI/Wan2.2-TI2V-5B-Diffusers", license="Apache-2.0"),
    HubModel(name="wan2.1-14b", repo="Wan-AI/Wan2.1-T2V-14B-Diffusers", license="Apache-2.0"),
    HubModel(name="wan2.1-1.3b", repo="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", license="Apache-2.0"),
)
MODELS: Mapping[str, HubModel] = MappingProxyType({model.name: model for model in _WAN})
"""Base models by name."""
ADAPTERS: tuple[HubAdapter, ...] = ()
"""Published adapters; there are none yet."""


def hub_model(name: str, models: Mapping[str, HubModel] = MODELS) -> HubModel:
    """Return a model of the table.

    Raises:
        UsageError: It has none of that name.
    """
    if name in models:
        return models[name]
    near = get_close_matches(name, list(models), n=1)
    raise UsageError(
        f"no model to download is called {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"models: {', '.join(models)}",
    )


def default_adapter(
    model_name: str, mode: str, adapters: Sequence[HubAdapter] = ADAPTERS
) -> HubAdapter | None:
    """Return the published Grid-Fill adapter of a model for grids of a mode; None: there is none.

    Args:
        model_name: Name of the base model.
        mode: "consistent" or "composition".
        adapters: The table to look in.
    """
    fitting = (one for one in adapters if (one.base, one.mode) == (model_name, mode))
    return next(fitting, None)
