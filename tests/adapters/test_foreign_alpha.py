"""The alpha of another program's LoRA wherever it stands, against PEFT itself and dense maths."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from dcgrid.adapters.find import find_adapter
from dcgrid.adapters.fold import fold_lora
from dcgrid.adapters.foreign import assumed_scale, read_foreign
from dcgrid.errors import AdapterError
from tests.adapters.conftest import WIDTH, TinyNet
from tests.hub.conftest import fake_hub  # noqa: F401 - a fixture
from tests.hub.server import Hub

RANK = 4
LAYERS = ("blocks.0.query", "blocks.1.mlp.0")


def sides() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    outputs = {"blocks.0.query": WIDTH, "blocks.1.mlp.0": 20}
    state = {}
    for name in LAYERS:
        state[f"{name}.lora_A.weight"] = torch.randn(RANK, WIDTH, generator=generator)
        state[f"{name}.lora_B.weight"] = torch.randn(outputs[name], RANK, generator=generator)
    return state


def write(path: Path, header: Mapping[str, str] | None = None, prefix: str = "") -> Path:
    state = {f"{prefix}{key}": value for key, value in sides().items()}
    save_file(state, path, metadata=dict(header or {}))
    return path


def scales(path: Path) -> list[float]:
    lora = read_foreign(path)
    return [lora.layers[name].scale for name in LAYERS]


@pytest.mark.parametrize("prefix", ["", "transformer.", "diffusion_model.", "base_model.model."])
@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"lora_alpha": "16"}, "lora_alpha 16 of its header"),
        ({"network_alpha": "16.0"}, "network_alpha 16 of its header"),
        ({"alpha": " 1.6e1 "}, "alpha 16 of its header"),
        ({"ss_network_alpha": "16", "ss_network_dim": "4"}, "ss_network_alpha 16 of its header"),
        ({"transformer.lora_alpha": "16"}, "lora_alpha 16 of its header"),
        ({"transformer.lora_alpha": "16", "lora_alpha": "2"}, "lora_alpha 16 of its header"),
        ({"text_encoder.lora_alpha": "2", "lora_alpha": "16"}, "lora_alpha 16 of its header"),
        ({"lora_alpha": "8", "use_rslora": "true"}, "lora_alpha 8 of its header"),
        (
            {"lora_alpha": "16", "network_alpha": "4"},
            "lora_alpha 16 of its header, which has network_alpha 4 as well",
        ),
        ({"lora_adapter_metadata": '{"lora_alpha": 16}'}, "lora_alpha 16 of lora_adapter_metadata"),
        ({"lora_adapter_metadata": '{"transformer.lora_alpha": 16}'}, "of lora_adapter_metadata"),
        ({"lora_adapter_metadata": '{"transformer": {"lora_alpha": 16}}'}, "of lora_adapter_meta"),
        ({"lora_config": '{"r": 4, "lora_alpha": 16}'}, "lora_alpha 16 of lora_config in its head"),
        ({"lora_config": '{"r": 4, "alpha": 16.0}'}, "alpha 16 of lora_config in its header"),
        ({"lora_adapter_metadata": '{"r": 4}', "lora_alpha": "16"}, "lora_alpha 16 of its header"),
        (
            {"lora_alpha": "2", "alpha_pattern": json.dumps(dict.fromkeys(LAYERS, 16))},
            "lora_alpha 2 of its header",
        ),
        ({"ss_tag_frequency": '{"alpha": 3, "lora_alpha": 5}', "alpha": "16"}, "alpha 16 of its"),
    ],
)
def test_alphas_of_the_header_are_read(
    tmp_path: Path, header: dict[str, str], said: str, prefix: str
) -> None:
    path = write(tmp_path / "theirs.safetensors", header, prefix)
    assert scales(path) == [4.0, 4.0]
    assert said in read_foreign(path).scale_line
    assert read_foreign(path).scale_line.startswith("scale 4 (")
    assert assumed_scale(path) == ""


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"format": "pt"},
        {"ss_network_alpha": "None"},
        {"ss_network_alpha": "0"},
        {"alpha": "premultiplied"},
        {"lora_alpha": "NaN"},
        {"lora_alpha": "1e999"},
        {"lora_alpha": "1" + "0" * 400},
        {"text_encoder.lora_alpha": "16"},
        {"lora_adapter_metadata": '{"transformer.r": 4}'},
        {"ss_tag_frequency": '{"alpha": 3}'},
    ],
)
def test_a_scale_that_stands_nowhere_is_said_to_be_assumed(
    tmp_path: Path, header: dict[str, str]
) -> None:
    path = write(tmp_path / "theirs.safetensors", header)
    assert scales(path) == [1.0, 1.0]
    assert read_foreign(path).scale_line.startswith("scale 1 (assumed: no alpha")
    assert assumed_scale(path).startswith("assumed: no alpha in its header")


def test_alphas_of_layers_win_and_the_others_take_the_header_s(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    own = {f"{LAYERS[0]}.alpha": torch.tensor(2)}
    save_file(sides() | own, path, metadata={"ss_network_alpha": "8"})
    assert scales(path) == [0.5, 2.0]
    assert read_foreign(path).scale_line == (
        "scale 0.5 to 2 (1 of 2 layers: ss_network_alpha 8 of its header)"
    )
    save_file(sides() | own, path)
    assert scales(path) == [0.5, 1.0]
    assert "1 of 2 layers: assumed" in read_foreign(path).scale_line
    assert assumed_scale(path).startswith("assumed")
    save_file(sides() | own | {f"{LAYERS[1]}.alpha": torch.tensor(2.0)}, path)
    assert read_foreign(path).scale_line == "scale 0.5 (alpha of each layer)"
    assert assumed_scale(path) == ""


def peft_folder(path: Path, **config: Any) -> tuple[Path, nn.Module]:
    """Save an adapter with PEFT; return its weights and the network into which PEFT merges it."""
    torch.manual_seed(8)
    wrapped = get_peft_model(TinyNet(), LoraConfig(init_lora_weights=False, **config))
    wrapped.save_pretrained(path)
    merged = PeftModel.from_pretrained(TinyNet(), str(path)).merge_and_unload()
    return path / "adapter_model.safetensors", merged


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 16, "target_modules": ["query", "mlp.0"]},
    "rslora": {"r": 4, "lora_alpha": 6, "target_modules": ["query"], "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 2,
        "target_modules": ["query", "mlp.2"],
        "alpha_pattern": {"mlp.2": 12, "blocks.0.query": 3},
        "rank_pattern": {"mlp.2": 2},
    },
    "regex": {"r": 2, "lora_alpha": 8, "target_modules": r"blocks\.\d\.query"},
}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "rain (1).safetensors"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_of_peft_count_beside_a_renamed_file(tmp_path: Path, kind: str, name: str) -> None:
    path, merged = peft_folder(tmp_path / "theirs", **CONFIGS[kind])
    path = path.rename(path.parent / name)
    network = TinyNet()
    report = fold_lora(network, path)
    assert "of adapter_config.json)" in report.scale
    for key, value in merged.state_dict().items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    header = dict(network.named_parameters())["head.weight"]
    assert torch.equal(header, TinyNet().head.weight)


@pytest.mark.parametrize(
    "config",
    [{"r": 8, "lora_alpha": 16}, {"r": 4, "lora_alpha": 16, "target_modules": ["to_q"]}],
)
def test_the_config_of_another_file_in_the_folder_is_not_taken(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    path = write(tmp_path / "other.safetensors")
    assert scales(path) == [1.0, 1.0]
    assert assumed_scale(path) == "assumed: adapter_config.json beside it has other ranks or layers"


def test_the_header_comes_before_the_config_beside_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 2}')
    assert scales(write(tmp_path / "a.safetensors", {"network_alpha": "8"})) == [2.0, 2.0]
    assert scales(write(tmp_path / "b.safetensors")) == [0.5, 0.5]


@pytest.mark.parametrize("config", ["{", "[]", '{"lora_alpha": "many"}', '{"use_dora": true}'])
def test_a_damaged_config_beside_is_named(tmp_path: Path, config: str) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        read_foreign(write(tmp_path / "theirs.safetensors"))


def test_the_config_of_a_repository_comes_with_its_weights(
    fake_hub: Hub,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A cache on another disk, as users of small homes have it.
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "link"))
    path, merged = peft_folder(tmp_path / "theirs", **CONFIGS["plain"])
    files = {f"rain/{one.name}": one.read_bytes() for one in path.parent.iterdir()}
    fake_hub.add("a/b", files)
    fake_hub.add("a/c", {"rain.safetensors": path.read_bytes()})
    for reference in ("hf:a/b", "hf:a/b/rain/adapter_model.safetensors"):
        network = TinyNet()
        fold_lora(network, find_adapter(reference, offline=False))
        for key, value in merged.state_dict().items():
            torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    bare = find_adapter("hf:a/c", offline=False)
    assert assumed_scale(bare).startswith("assumed")
    asked = len(fake_hub.requests)
    # Both what is there and what is not are known now.
    assert find_adapter("hf:a/c", offline=False).samefile(bare)
    assert find_adapter("hf:a/b", offline=True).with_name("adapter_config.json").is_file()
    assert len(fake_hub.requests) == asked
