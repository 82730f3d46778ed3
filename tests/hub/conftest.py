"""A hub of the tests' own, with a small model under a name of the table."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcgrid.hub import known_models
from tests.hub.server import Hub, running_hub, safetensors_bytes

ROOT = Path(__file__).parents[2]
UNPINNED = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    "from dcgrid.hub import known_models; from tests.hub.conftest import unpinned\n"
    "known_models.MODELS = unpinned()\n"
)
"""First lines of a script that is to find the small models, too."""

NETWORK_SWITCHES = (
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_HOME", "DCGRID_HOME"),
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
)


def unpinned() -> dict[str, known_models.HubModel]:
    """Return the table of models as if nothing were known of their commits and files."""
    rows = known_models.MODELS.values()
    return {row.name: replace(row, revision="main", sizes={}, sha256={}) for row in rows}


def patch_sleep(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    """Let the client alone sleep so, not the server of these tests."""
    for module in ("utils._http", "file_download"):
        clock = SimpleNamespace(sleep=sleep)
        monkeypatch.setattr(f"huggingface_hub.{module}.time", clock)


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in NETWORK_SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))
    # The client reads both once, when it is imported, which may have been offline. A token of the
    # machine must not leave it.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(known_models, "MODELS", unpinned())
    with running_hub() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.endpoint)
        yield state


@pytest.fixture
def model_files() -> dict[str, bytes]:
    """A model in diffusers' layout, one part in two shards, with files that are not wanted."""
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    return {
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": b"# A model",
        "examples/cat.jpg": b"picture",
        "Wan2.2_VAE.pth": b"pickle",
        "text_encoder/pytorch_model.bin": b"pickle",
        "model_index.json": b'{"_class_name": "WanPipeline"}',
        "scheduler/scheduler_config.json": b"{}",
        "text_encoder/config.json": b'{"text": 1}',
        "text_encoder/model.safetensors": safetensors_bytes(100_000, 1),
        "tokenizer/spiece.model": b"pieces",
        "tokenizer/tokenizer.json": b'{"token": 1}',
        "transformer/config.json": b'{"transformer": 1}',
        "transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(index).encode(),
        f"transformer/{shards[0]}": safetensors_bytes(1_000_000, 2),
        f"transformer/{shards[1]}": safetensors_bytes(300_000, 3),
        "vae/config.json": b'{"vae": 1}',
        "vae/diffusion_pytorch_model.safetensors": safetensors_bytes(50_000, 4),
    }
