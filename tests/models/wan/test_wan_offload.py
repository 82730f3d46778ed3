"""Every offload mode gives the same bits; where the weights are meanwhile."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcgrid.errors import WeightsError
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.base import Memory, TokenPlaces
from dcgrid.models.quantize import QuantLinear
from dcgrid.models.wan.backbone import WanBackbone, load_wan
from dcgrid.models.wan.checkpoint import read_checkout
from dcgrid.models.wan.parts import frozen, place_parts

diffusers = pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

MODES = ("model", "block", "disk")
DTYPES = (torch.float32, torch.bfloat16)
LAYOUT = GridLayout(rows=1, cols=2)
SHAPE = TokenShape(frames=2, rows=2, cols=3)
CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> WanBackbone:
    return load_wan(read_checkout(folder), device="cpu", dtype=dtype, **options)


def everything(backbone: WanBackbone) -> list[Tensor]:
    """Text, encoding, two calls that share a memory, decoding: twice, as a second clip would be."""
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(1, 3, 5, 32, 48, generator=generator) * 2 - 1
    cells = torch.randn(1, 2, 4, 2, 4, 6, generator=generator)
    places = TokenPlaces(
        coordinates_S3=token_coordinates(LAYOUT, SHAPE, None),
        position_S=grid_positions(LAYOUT, SHAPE),
    )
    found = []
    for _ in range(2):
        with backbone.parts.residence.on("text"):
            text = backbone.parts.segments.encode_rows([["a dog", "rain"], ["smoke"]], cells=2)
        memory = Memory()
        latents = backbone.encode(video)
        for time in (0.8, 0.4):
            velocity = backbone.velocity(
                cells, torch.full((1, 2, 2), time), text, places, memory=memory
            )
            found.append(velocity)
        found += [text.tokens_BKLE, latents, backbone.decode(latents + velocity[:, 0])]
    return found


@pytest.mark.parametrize("quantize", ["none", "int8", "fp8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_mode_gives_the_same_bits(
    wan_folder: Path, dtype: torch.dtype, quantize: str
) -> None:
    expected = everything(load(wan_folder, dtype, quantize=quantize))
    assert all(part.isfinite().all() for part in expected)
    for mode in MODES:
        found = everything(load(wan_folder, dtype, offload=mode, quantize=quantize))
        for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert torch.equal(ours, theirs), (mode, place)


@pytest.mark.parametrize("mode", MODES)
def test_dtypes_and_config_are_those_of_a_plain_load(wan_folder: Path, mode: str) -> None:
    plain = load(wan_folder, torch.bfloat16).parts
    parts = load(wan_folder, torch.bfloat16, offload=mode).parts
    for ours, theirs in (
        (parts.transformer, plain.transformer),
        (parts.segments.encoder, plain.segments.encoder),
        (parts.vae, plain.vae),
    ):
        wanted = {name: (p.shape, p.dtype) for name, p in theirs.named_parameters()}
        assert {name: (p.shape, p.dtype) for name, p in ours.named_parameters()} == wanted
        assert not ours.training
    assert parts.transformer.config.num_layers == plain.transformer.config.num_layers == 2


def storage_bytes(module: nn.Module) -> int:
    found = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in (*module.parameters(), *module.buffers())
    }
    return sum(found.values())


def test_on_disk_the_blocks_and_the_text_encoder_take_no_memory(wan_folder: Path) -> None:
    parts = load(wan_folder, offload="disk").parts
    assert storage_bytes(parts.transformer.blocks) <= 8 * len(frozen(parts.transformer.blocks))
    assert storage_bytes(parts.segments.encoder) <= 8 * len(frozen(parts.segments.encoder))
    everything(WanBackbone(load(wan_folder).spec, parts))
    assert storage_bytes(parts.transformer.blocks) <= 8 * len(frozen(parts.transformer.blocks))


@pytest.mark.parametrize("mode", MODES)
def test_one_large_part_at_a_time(wan_folder: Path, mode: str) -> None:
    backbone = load(wan_folder, offload=mode)
    parts = backbone.parts
    modules = {
        "text": parts.segments.encoder.shared,
        "transformer": parts.transformer.proj_out,
        "vae": parts.vae.post_quant_conv,
    }
    home = {name: module.weight.data_ptr() for name, module in modules.items()}
    for name in ("text", "vae", "transformer", "vae"):
        with parts.residence.on(name):
            here = [n for n, m in modules.items() if m.weight.data_ptr() != home[n]]
            assert here == [name]


def test_folding_is_for_weights_that_stay(wan_folder: Path) -> None:
    assert load(wan_folder).folds
    for mode in ("model", "block"):
        assert load(wan_folder, offload=mode).folds
    assert not load(wan_folder, offload="disk").folds
    assert not load(wan_folder, quantize="int8").folds


def test_weights_changed_before_the_offload_travel_along(wan_folder: Path) -> None:
    changed = load(wan_folder)
    with torch.no_grad():
        changed.parts.transformer.blocks[1].attn1.to_q.weight.mul_(-1)
    expected = everything(changed)
    assert not torch.equal(expected[0], everything(load(wan_folder))[0])
    for mode in ("model", "block"):
        other = load(wan_folder)
        with torch.no_grad():
            other.parts.transformer.blocks[1].attn1.to_q.weight.mul_(-1)
        placed = WanBackbone(other.spec, place_parts(other.parts, device=CPU, offload=mode))
        assert all(map(torch.equal, everything(placed), expected))


@pytest.mark.parametrize("mode", ["model", "block"])
def test_weights_changed_under_the_offload_count_from_then_on(wan_folder: Path, mode: str) -> None:
    """Not what `folds` advises, and right all the same."""
    backbone = load(wan_folder, offload=mode)
    everything(backbone)
    with backbone.parts.residence.on("transformer"), torch.no_grad():
        for block in backbone.parts.transformer.blocks:
            block.attn1.to_q.weight.mul_(-1)
    plain = load(wan_folder)
    with torch.no_grad():
        for block in plain.parts.transformer.blocks:
            block.attn1.to_q.weight.mul_(-1)
    assert all(map(torch.equal, everything(backbone), everything(plain)))


def test_parts_are_offloaded_once(wan_folder: Path) -> None:
    parts = load(wan_folder, offload="model").parts
    with pytest.raises(ValueError, match="offloaded by model cannot be by block"):
        place_parts(parts, device=CPU, offload="block")


def crest(weight: Tensor) -> Tensor:
    """Largest of a row over its rms."""
    return weight.abs().amax(1) / weight.pow(2).mean(1).sqrt()


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_rounded_transformer_errs_as_its_rounding_does(wan_folder: Path, kind: str) -> None:
    """The bound: every product errs by the relative rms r of its weights; errors are independent.

    Between rows, r is crest / (127 sqrt 12) for int8 and at most 2^-4 / sqrt 3 for fp8 (a number
    is off by half a unit of three bits, evenly). A sum of branches of like size keeps the ratio;
    layers stand one behind another, so after n products it is at most sqrt(n) r to first order.
    """
    plain, rounded = load(wan_folder), load(wan_folder, quantize=kind)
    expected, found = everything(plain)[0], everything(rounded)[0]
    linears = [m for m in plain.parts.transformer.blocks.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 20
    largest = max(float(crest(m.weight).max()) for m in linears)
    relative = largest / (127 * math.sqrt(12)) if kind == "int8" else 2**-4 / math.sqrt(3)
    error = (found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert 0 < error < math.sqrt(len(linears)) * relative
    assert all(
        isinstance(m, QuantLinear)
        for m in rounded.parts.transformer.blocks.modules()
        if isinstance(m, nn.Linear)
    )


def test_rounded_weights_take_half_the_bytes_of_bfloat16(wan_folder: Path) -> None:
    def taken(kind: str) -> int:
        parts = load(wan_folder, torch.bfloat16, quantize=kind).parts
        layers = [m for m in parts.transformer.blocks.modules() if isinstance(m, nn.Linear)]
        return sum(m.weight.numel() * m.weight.element_size() for m in layers)

    assert 2 * taken("int8") == 2 * taken("fp8") == taken("none")


def copied(wan_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(wan_folder, tmp_path / "copy"))


def test_shards_are_read_from_disk_too(wan_folder: Path, tmp_path: Path) -> None:
    folder = copied(wan_folder, tmp_path)
    shutil.rmtree(folder / "transformer")
    diffusers.WanTransformer3DModel.from_pretrained(wan_folder / "transformer").save_pretrained(
        folder / "transformer", max_shard_size="20KB"
    )
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    found, expected = everything(load(folder, offload="disk")), everything(load(wan_folder))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("part", "spoil", "told"),
    [
        ("transformer", "half", "cannot load"),
        ("text_encoder", "half", "cannot load"),
        ("transformer", "nan", r"blocks\.1\.attn1\.to_q\.bias holds numbers"),
        ("transformer", "deep", r"transformer has no blocks\.2\."),
    ],
)
def test_damage_is_named_when_read_from_disk(
    wan_folder: Path, tmp_path: Path, part: str, spoil: str, told: str
) -> None:
    folder = copied(wan_folder, tmp_path)
    (weights,) = (folder / part).glob("*.safetensors")
    if spoil == "half":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif spoil == "nan":
        model = diffusers.WanTransformer3DModel.from_pretrained(wan_folder / "transformer")
        model.blocks[1].attn1.to_q.bias.data[3] = float("nan")
        model.save_pretrained(folder / "transformer")
    else:
        path = folder / "transformer/config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "num_layers": 3}))
    with pytest.raises(WeightsError, match=told):
        load(folder, offload="disk")
