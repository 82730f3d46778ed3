"""The models and adapters that can be had by name; no network, no torch.

Where a revision is a branch, the commit that it meant is remembered at the first download
(pins.py). `MODELS` make videos; `SCORERS` are what videos are scored with.

Differs: docs/decisions/0016.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import resources
from pathlib import Path, PurePosixPath
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
    """A model on the hub."""

    name: str
    """What `--model`, or the reason of a blank column of scores, calls it."""
    repo: str
    """Repository "owner/name"."""
    revision: str = "main"
    """Commit, or the branch or tag that the first download resolves to one."""
    patterns: tuple[str, ...] = DIFFUSERS_PATTERNS
    """Files to take, each `folder/pattern` or `pattern`; `*` does not cross folders."""
    license: str
    """What the repository's card is known to say."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Size of every file of the model in bytes, by path; empty: the hub has to be asked."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Known hashes in hex, by path; a repository that has another file there is refused."""
    is_scorer: bool = False
    """True: videos are scored with it, each pattern is a file that it needs. False: it makes them,
    and its files are in diffusers' layout."""

    @property
    def bytes_expected(self) -> int | None:
        """Size of all files together; None: not known before the hub is asked."""
        return sum(self.sizes.values()) if self.sizes else None

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


def _wan_models() -> tuple[HubModel, ...]:
    """Return Wan's models at the commits of wan_files.json, with what it says of their files."""
    repos = {
        "wan2.2-5b": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        "wan2.1-14b": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "wan2.1-1.3b": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    }
    text = resources.files("dcgrid.hub").joinpath("wan_files.json").read_text(encoding="utf-8")
    rows = json.loads(text)
    return tuple(
        HubModel(
            name=name,
            repo=repo,
            revision=rows[name]["commit"],
            license="Apache-2.0",
            sizes={path: file["bytes"] for path, file in rows[name]["files"].items()},
            sha256={
                path: file["sha256"]
                for path, file in rows[name]["files"].items()
                if file["sha256"] is not None
            },
        )
        for name, repo in repos.items()
    )


_WAN = _wan_models()
MODELS: Mapping[str, HubModel] = MappingProxyType({model.name: model for model in _WAN})
"""Base models by name."""
_INSIGHTFACE = "InsightFace, non-commercial"
# Looked up in public pages and repositories, since the hub could not be reached from where this was
# written: which files the repositories hold, commits, and hashes. Only those of arcface-mbf's
# recognition, sface and yunet were computed from the files. What is missing here (a commit, a hash)
# is pinned at the first download. facebook/dino-vits16 holds pickles alone, so timm's copy is used.
_SCORERS = (
    HubModel(
        name="clip-vit-l14",
        repo="openai/clip-vit-large-patch14",
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
        patterns=(
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "merges.txt",
        ),
        license="MIT",
        sha256={
            "model.safetensors": "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
        },
        is_scorer=True,
    ),
    HubModel(
        name="dino-vits16",
        repo="timm/vit_small_patch16_224.dino",
        patterns=("model.safetensors",),
        license="Apache-2.0",
        is_scorer=True,
    ),
    HubModel(
        name="arcface-r50",
        repo="public-data/insightface",
        patterns=("models/buffalo_l/w600k_r50.onnx", "models/buffalo_l/det_10g.onnx"),
        license=_INSIGHTFACE,
        sha256={
            "models/buffalo_l/w600k_r50.onnx": (
                "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43"
            ),
            "models/buffalo_l/det_10g.onnx": (
                "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"
            ),
        },
        is_scorer=True,
    ),
    HubModel(
        name="arcface-mbf",
        repo="deepghs/insightface",
        patterns=("buffalo_s/w600k_mbf.onnx", "buffalo_s/det_500m.onnx"),
        license=_INSIGHTFACE,
        sha256={
            "buffalo_s/w600k_mbf.onnx": (
                "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f"
            ),
            "buffalo_s/det_500m.onnx": (
                "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a"
            ),
        },
        is_scorer=True,
    ),
    HubModel(
        name="sface",
        repo="opencv/face_recognition_sface",
        patterns=("face_recognition_sface_2021dec.onnx",),
        license="Apache-2.0",
        sha256={
            "face_recognition_sface_2021dec.onnx": (
                "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"
            )
        },
        is_scorer=True,
    ),
    HubModel(
        name="yunet",
        repo="opencv/face_detection_yunet",
        patterns=("face_detection_yunet_2023mar.onnx",),
        license="MIT",
        sha256={
            "face_detection_yunet_2023mar.onnx": (
                "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
            )
        },
        is_scorer=True,
    ),
    HubModel(
        name="lpips-vgg",
        repo="timm/vgg16.tv_in1k",
        revision="b8d8aa2dd860af9233c8c67385a8097fd6c35d3f",
        patterns=("model.safetensors",),
        license="BSD-3-Clause",
        sha256={
            "model.safetensors": "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8"
        },
        is_scorer=True,
    ),
)
SCORERS: Mapping[str, HubModel] = MappingProxyType({model.name: model for model in _SCORERS})
"""Networks that videos are scored with, by name."""
ADAPTERS: tuple[HubAdapter, ...] = ()
"""Published adapters; there are none yet."""


def model_name(text: str) -> str:
    """Return the name of the model that a repository id means; any other text as it is.

    Args:
        text: What a user calls a model, e.g. "wan2.2-5b" or "Wan-AI/Wan2.2-TI2V-5B-Diffusers".
    """
    repos = {model.repo.lower(): model.name for model in MODELS.values()}
    # A folder of the same path is meant as it stands.
    return text if Path(text).exists() else repos.get(text.lower(), text)


def hub_model(name: str) -> HubModel:
    """Return a model of the tables, one that makes videos or one that scores them.

    Raises:
        UsageError: They have none of that name.
    """
    models = {**MODELS, **SCORERS}
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
