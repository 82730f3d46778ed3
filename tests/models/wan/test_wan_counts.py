"""Parameter counts from configs alone against the modules of diffusers and transformers."""

from typing import Any

import pytest
import torch
from torch import nn

from dcgrid import hub
from dcgrid.models.wan.counts import (
    Numbers,
    WanSizes,
    block_numbers,
    rest_numbers,
    table_bytes,
    text_numbers,
    vae_numbers,
)
from dcgrid.models.wan.known import KNOWN, TEXT

diffusers = pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")


def numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def transformer(config: Any) -> Any:
    with torch.device("meta"):
        return diffusers.WanTransformer3DModel.from_config(dict(config))


@pytest.mark.parametrize(
    ("name", "billions"), [("wan2.2-5b", 5.0), ("wan2.1-14b", 14.3), ("wan2.1-1.3b", 1.42)]
)
def test_transformers_of_the_named_models(name: str, billions: float) -> None:
    sizes, model = WanSizes.known(name), transformer(KNOWN[name][0])
    block, rest = block_numbers(sizes), rest_numbers(sizes)
    assert block.total == numbers(model.blocks[0])
    assert sizes.layers * block.total + rest.total == numbers(model)
    assert round(numbers(model) / 1e9, 1) == round(billions, 1)
    kept = set(model._keep_in_fp32_modules)
    wide = [p.numel() for n, p in model.named_parameters() if kept & set(n.split("."))]
    assert sizes.layers * block.wide + rest.wide == sum(wide)
    linears = [m for m in model.blocks[0].modules() if isinstance(m, nn.Linear)]
    assert block.linear == sum(m.weight.numel() for m in linears)
    assert block.rows == sum(m.out_features for m in linears)
    tables = [b for _, b in model.rope.named_buffers()]
    assert table_bytes(sizes) == sum(4 * b.numel() for b in tables)


@pytest.mark.parametrize("name", ["wan2.2-5b", "wan2.1-1.3b"])
def test_autoencoders_of_the_named_models(name: str) -> None:
    config = {k: list(v) if isinstance(v, tuple) else v for k, v in KNOWN[name][1].items()}
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLWan(
            **config, latents_mean=[0.0] * config["z_dim"], latents_std=[1.0] * config["z_dim"]
        )
    assert vae_numbers(WanSizes.known(name)).total == numbers(vae)


def test_the_text_encoder() -> None:
    import transformers

    with torch.device("meta"):
        encoder = transformers.UMT5EncoderModel(transformers.UMT5Config(**dict(TEXT)))
    encoder.tie_weights()
    counted = text_numbers(WanSizes.known("wan2.2-5b")).total
    assert counted == numbers(encoder)
    assert round(counted / 1e9, 1) == 5.7


@pytest.mark.parametrize("name", hub.MODELS)
def test_weight_files_that_the_table_names_hold_the_counted_numbers(name: str) -> None:
    """Sizes that were looked up against counts; a file has a header beside its numbers."""
    sizes = WanSizes.known(name)
    counted = {
        "transformer": sizes.layers * block_numbers(sizes).total + rest_numbers(sizes).total,
        "text_encoder": text_numbers(sizes).total,
        "vae": vae_numbers(sizes).total,
    }
    for part, count in counted.items():
        stored = sum(
            size
            for path, size in hub.MODELS[name].sizes.items()
            if path.startswith(f"{part}/") and path.endswith(".safetensors")
        )
        width = 2 if (name, part) == ("wan2.2-5b", "text_encoder") else 4
        assert 0 < stored - count * width < 200_000, part


def test_bytes_by_how_numbers_are_stored() -> None:
    some = Numbers(plain=110, wide=10, linear=100, rows=4)
    assert some.stored(2) == 260
    assert some.stored(2, rounded=True) == 100 + 10 * 2 + 4 * 2 + 40
    assert some.stored(4, rounded=True) == 100 + 10 * 4 + 4 * 4 + 40
