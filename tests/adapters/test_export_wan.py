"""Adapters of a Wan model in other programs' files, read by diffusers' own loaders."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dcgrid.adapters.attach import attach_adapter, detach_adapter, linear_shapes
from dcgrid.adapters.export import Target, export_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.fold import fold_adapter, fold_lora
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.adapters.wan_names import diffusers_name, original_name
from dcgrid.errors import AdapterError
from dcgrid.models.registry import find_model
from dcgrid.models.wan.backbone import WanBackbone, load_wan
from dcgrid.models.wan.checkpoint import read_checkout
from tests.wan_checkout import our_frames, pipeline_frames

diffusers = pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

BLOCK = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")
OUTSIDE = ("time_proj", "proj_out", "text_embedder.linear_1", "text_embedder.linear_2")


@pytest.fixture
def backbone(wan_folder: Path) -> WanBackbone:
    return load_wan(read_checkout(wan_folder), device="cpu", dtype=torch.float32)


@pytest.fixture
def pipeline(wan_folder: Path) -> Any:
    return diffusers.WanPipeline.from_pretrained(wan_folder)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What diffusers and PEFT warn of: the only place where they tell of odd keys."""
    lines: list[str] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Listen(level=logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("diffusers", "peft")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lines
    for logger in loggers:
        logger.removeHandler(handler)


def trained_file(backbone: WanBackbone, folder: Path, **changes: object) -> Path:
    """Write an adapter with random numbers in every part."""
    values: dict[str, Any] = {
        "name": "fill",
        "stage": "fill",
        "rank": 3,
        "alpha": 5.0,
        "targets": BLOCK,
        "base": "small-wan",
        **changes,
    }
    spec, generator = AdapterSpec(**values), torch.Generator().manual_seed(7)
    for parameter in attach_adapter(backbone.network, spec):
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    path = folder / "ours.safetensors"
    save_adapter(backbone.network, spec, path)
    detach_adapter(backbone.network)
    return path


@pytest.mark.parametrize("target", ["diffusers", "comfyui", "kohya"])
@pytest.mark.parametrize("changes", [{}, {"alpha": 3.0}, {"form": "structured"}])
def test_the_pipeline_of_diffusers_makes_our_pixels(
    backbone: WanBackbone,
    pipeline: Any,
    told: list[str],
    tmp_path: Path,
    target: Target,
    changes: dict[str, object],
) -> None:
    path = trained_file(backbone, tmp_path, **changes)
    (out,) = export_adapter(path, target, tmp_path / "theirs.safetensors")
    bare = pipeline_frames(pipeline, steps=2, guidance=2.0)
    pipeline.load_lora_weights(out)
    assert told == []
    expected = pipeline_frames(pipeline, steps=2, guidance=2.0)
    fold_adapter(backbone.network, path)
    found = our_frames(backbone, steps=2, guidance=2.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert (expected - bare).abs().max() > 0.02


@pytest.mark.parametrize("target", ["diffusers", "comfyui"])
@pytest.mark.parametrize("alpha", [3.0, 4.5])
def test_every_layer_that_can_be_trained_arrives(
    backbone: WanBackbone,
    pipeline: Any,
    told: list[str],
    tmp_path: Path,
    target: Target,
    alpha: float,
) -> None:
    path = trained_file(backbone, tmp_path, targets=(*BLOCK, *OUTSIDE), alpha=alpha)
    (out,) = export_adapter(path, target, tmp_path / "theirs.safetensors")
    before = weights(pipeline.transformer)
    pipeline.load_lora_weights(out)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    assert told == []
    fold_adapter(backbone.network, path)
    fused = weights(pipeline.transformer)
    assert fused.keys() == weights(backbone.network).keys()
    for name, weight in weights(backbone.network).items():
        torch.testing.assert_close(fused[name], weight, rtol=1e-5, atol=1e-6)
    changed = {name for name in fused if not torch.equal(fused[name], before[name])}
    assert len(changed) == 2 * 10 + 4


def weights(network: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("target", ["peft", "diffusers", "comfyui", "kohya"])
def test_an_exported_file_comes_back_as_it_went(
    wan_folder: Path, backbone: WanBackbone, tmp_path: Path, target: Target
) -> None:
    path = trained_file(backbone, tmp_path, targets=(*BLOCK, *OUTSIDE))
    out = export_adapter(path, target, tmp_path / "theirs.safetensors")[0]
    other = load_wan(read_checkout(wan_folder), device="cpu", dtype=torch.float32)
    report = fold_lora(other.network, out)
    assert (report.naming, report.matched) == (target, 24)
    fold_adapter(backbone.network, path)
    expected = weights(backbone.network)
    for name, weight in weights(other.network).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-7)


def test_keys_are_those_of_the_programs(backbone: WanBackbone, tmp_path: Path) -> None:
    path = trained_file(backbone, tmp_path, targets=("to_q", "net.0.proj", "proj_out"))
    comfyui = load_file(export_adapter(path, "comfyui", tmp_path / "c.safetensors")[0])
    assert set(comfyui) == {
        *(
            f"diffusion_model.blocks.{i}.{layer}.{end}"
            for i in range(2)
            for layer in ("self_attn.q", "cross_attn.q", "ffn.0")
            for end in ("lora_A.weight", "lora_B.weight", "alpha")
        ),
        "diffusion_model.head.head.lora_A.weight",
        "diffusion_model.head.head.lora_B.weight",
    }
    assert comfyui["diffusion_model.blocks.1.ffn.0.alpha"] == 5.0
    kohya = load_file(export_adapter(path, "kohya", tmp_path / "k.safetensors")[0])
    assert {key for key in kohya if "blocks_1_cross" in key} == {
        f"lora_unet_blocks_1_cross_attn_q.{end}"
        for end in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    alike = trained_file(backbone, tmp_path, alpha=3.0)
    (plain,) = export_adapter(alike, "comfyui", tmp_path / "c.safetensors", force=True)
    assert not any("alpha" in key for key in load_file(plain))


def test_names_go_both_ways_for_every_layer(backbone: WanBackbone) -> None:
    for name in linear_shapes(backbone.network):
        original = original_name(name)
        assert original is not None
        assert diffusers_name(original) == name
        assert diffusers_name(original.replace(".", "_")) == name
        assert diffusers_name(name) == name
    assert original_name("blocks.0.attn.query") is None
    assert diffusers_name("blocks.x.self_attn.q") is None


@pytest.mark.parametrize("target", ["comfyui", "kohya"])
def test_other_models_are_refused(tmp_path: Path, target: Target) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(AdapterError, match=r"an adapter for mini, whose layer .* Wan lacks"):
        export_adapter(find_model("mini").files["fill"], target, out)
    assert not out.exists()


def test_metadata_tells_alpha(backbone: WanBackbone, tmp_path: Path) -> None:
    path = trained_file(backbone, tmp_path)
    (out,) = export_adapter(path, "diffusers", tmp_path / "d.safetensors")
    with safe_open(out, "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (config["transformer.r"], config["transformer.lora_alpha"]) == (3, 5.0)
