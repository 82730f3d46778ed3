"""The table of models and adapters, without a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dcgrid import hub

MODEL = hub.MODELS["wan2.2-5b"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("model_index.json", True),
        ("transformer/diffusion_pytorch_model-00001-of-00005.safetensors", True),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", True),
        ("text_encoder/config.json", True),
        ("tokenizer/spiece.model", True),
        ("scheduler/scheduler_config.json", True),
        ("transformer/diffusion_pytorch_model.bin", False),
        ("transformer/old/model.safetensors", False),
        ("Wan2.2_VAE.pth", False),
        ("diffusion_pytorch_model-00001-of-00003.safetensors", False),
        ("models_t5_umt5-xxl-enc-bf16.pth", False),
        ("google/umt5-xxl/spiece.model", False),
        ("README.md", False),
        ("assets/model_index.json", False),
    ],
)
def test_only_the_files_of_diffusers_layout_are_taken(path: str, wanted: bool) -> None:
    assert MODEL.wants(path) is wanted


@pytest.mark.parametrize("name", hub.MODELS)
def test_commits_sizes_and_hashes_are_of_files_that_are_taken(name: str) -> None:
    model = hub.MODELS[name]
    assert re.fullmatch(r"[0-9a-f]{40}", model.revision)
    assert all(model.wants(path) and size > 0 for path, size in model.sizes.items())
    weights = {path for path in model.sizes if path.endswith(".safetensors")}
    assert weights <= set(model.sha256) <= set(model.sizes)
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in model.sha256.values())
    for shard in (path for path in weights if "-of-" in path):
        count = int(re.search(r"-of-(\d+)", shard)[1])
        folder = shard.split("/")[0]
        assert sum(one.startswith(f"{folder}/") and "-of-" in one for one in weights) == count


def test_a_repository_id_means_its_model_and_a_folder_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.model_name("Wan-AI/Wan2.2-TI2V-5B-Diffusers") == "wan2.2-5b"
    assert hub.model_name("wan-ai/wan2.1-t2v-14b-diffusers") == "wan2.1-14b"
    for text in ("mini", "wan2.2-5b", "Wan-AI/Wan2.2-TI2V-5B", "no/such"):
        assert hub.model_name(text) == text
    Path("Wan-AI/Wan2.2-TI2V-5B-Diffusers").mkdir(parents=True)
    assert hub.model_name("Wan-AI/Wan2.2-TI2V-5B-Diffusers") == "Wan-AI/Wan2.2-TI2V-5B-Diffusers"


def test_adapters_are_found_by_model_and_mode() -> None:
    row = hub.HubAdapter(
        name="fill",
        base="wan2.2-5b",
        mode="consistent",
        repo="a/b",
        revision="v1",
        path="fill.safetensors",
        sha256="0" * 64,
        bytes=10,
        license="apache-2.0",
    )
    assert row.reference == "hf:a/b@v1/fill.safetensors"
    assert hub.default_adapter("wan2.2-5b", "consistent", [row]) is row
    assert hub.default_adapter("wan2.2-5b", "composition", [row]) is None
    assert hub.default_adapter("wan2.1-14b", "consistent", [row]) is None
    # None is published yet.
    assert all(hub.default_adapter(name, "consistent") is None for name in hub.MODELS)


def test_looking_a_model_up_on_this_machine_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dcgrid import hub; hub.locate_model('wan2.2-5b');"
        "print({'torch', 'huggingface_hub', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()"
