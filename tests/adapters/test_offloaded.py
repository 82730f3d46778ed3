"""Adapters on a Wan transformer whose weights visit the device: every mode, every order."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dcgrid.adapters.attach import attach_adapter, detach_adapter, routed_layers, set_routed
from dcgrid.adapters.files import load_adapter, save_adapter
from dcgrid.adapters.fold import fold_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import AdapterError
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.base import TokenPlaces
from dcgrid.models.wan.backbone import WanBackbone, load_wan
from dcgrid.models.wan.checkpoint import read_checkout
from dcgrid.models.wan.parts import place_parts

pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

MODES = ("model", "block", "disk")
DTYPES = (torch.float32, torch.bfloat16)
LAYOUT = GridLayout(rows=1, cols=2)
SHAPE = TokenShape(frames=2, rows=2, cols=3)
# In the blocks, and beside them.
TARGETS = ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "ffn.net.2", "proj_out")


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> WanBackbone:
    return load_wan(read_checkout(folder), device="cpu", dtype=dtype, **options)


def velocity(backbone: WanBackbone, route_KA: Tensor | None = None) -> Tensor:
    cells = torch.randn(1, 2, 4, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    places = TokenPlaces(
        coordinates_S3=token_coordinates(LAYOUT, SHAPE, None),
        position_S=grid_positions(LAYOUT, SHAPE),
    )
    with backbone.parts.residence.on("text"):
        text = backbone.parts.segments.encode_rows([["a dog"], ["smoke"]], cells=2)
    return backbone.velocity(cells, torch.full((1, 2, 2), 0.6), text, places, route_KA)


@pytest.fixture(scope="module", params=["plain", "structured"])
def adapter(request: pytest.FixtureRequest, wan_folder: Path, tmp_path_factory: Any) -> Path:
    """A file with numbers that count."""
    backbone = load(wan_folder)
    spec = AdapterSpec(
        name="fill", stage="fill", rank=3, alpha=6.0, targets=TARGETS, form=request.param
    )
    for seed, parameter in enumerate(attach_adapter(backbone.network, spec)):
        generator = torch.Generator().manual_seed(seed)
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    path: Path = tmp_path_factory.mktemp("adapters") / "fill.safetensors"
    save_adapter(backbone.network, spec, path)
    return path


@pytest.mark.parametrize("quantize", ["none", "int8", "fp8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attached_after_the_offload_is_set_up(
    wan_folder: Path, adapter: Path, dtype: torch.dtype, quantize: str
) -> None:
    """Before the first call, or between calls; and taken off again."""
    resident = load(wan_folder, dtype, quantize=quantize)
    bare = velocity(resident)
    load_adapter(resident.network, adapter)
    expected = velocity(resident)
    assert (expected - bare).abs().max() > 0.01
    for mode in MODES:
        for called_before in (False, True):
            backbone = load(wan_folder, dtype, offload=mode, quantize=quantize)
            if called_before:
                assert torch.equal(velocity(backbone), bare)
            load_adapter(backbone.network, adapter)
            layers = [layer for _, layer in routed_layers(backbone.network)]
            assert {p.dtype for layer in layers for p in layer.down_parameters("fill")} == {dtype}
            assert torch.equal(velocity(backbone), expected), mode
            assert torch.equal(velocity(backbone), expected), mode
            detach_adapter(backbone.network)
            assert torch.equal(velocity(backbone), bare), mode


@pytest.mark.parametrize("mode", ["model", "block"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attached_or_folded_before_the_offload_is_set_up(
    wan_folder: Path, adapter: Path, dtype: torch.dtype, mode: Any
) -> None:
    for put_on in (load_adapter, fold_adapter):
        resident, other = load(wan_folder, dtype), load(wan_folder, dtype)
        for backbone in (resident, other):
            put_on(backbone.network, adapter)
        parts = place_parts(other.parts, device=torch.device("cpu"), offload=mode)
        placed = WanBackbone(other.spec, parts)
        assert torch.equal(velocity(placed), velocity(resident))


@pytest.mark.parametrize("mode", ["model", "block"])
def test_folded_under_the_offload(wan_folder: Path, adapter: Path, mode: str) -> None:
    """Between two calls, when the first block waits in its buffer already."""
    resident, backbone = load(wan_folder), load(wan_folder, offload=mode)
    velocity(backbone)
    fold_adapter(backbone.network, adapter)
    fold_adapter(resident.network, adapter)
    assert torch.equal(velocity(backbone), velocity(resident))


@pytest.mark.parametrize("mode", MODES)
def test_routed_adapters_act_cell_by_cell(wan_folder: Path, adapter: Path, mode: str) -> None:
    route_KA = torch.tensor([[1.0], [0.0]])
    found = []
    for offload in ("none", mode):
        backbone = load(wan_folder, offload=offload)
        load_adapter(backbone.network, adapter)
        detached = [name for name, _ in routed_layers(backbone.network) if "to_q" not in name]
        for name in detached:
            layer = backbone.network.get_submodule(name)
            backbone.network.set_submodule(name, layer.plain)  # type: ignore[arg-type]
        set_routed(backbone.network, ["fill"])
        found.append(velocity(backbone, route_KA))
    assert torch.equal(found[0], found[1])


def test_rounded_weights_are_not_folded_into(wan_folder: Path, adapter: Path) -> None:
    backbone = load(wan_folder, quantize="int8")
    before = velocity(backbone)
    with pytest.raises(AdapterError, match="is stored as int8"):
        fold_adapter(backbone.network, adapter)
    assert torch.equal(velocity(backbone), before)


def test_weights_on_disk_are_not_folded_into(wan_folder: Path, adapter: Path) -> None:
    backbone = load(wan_folder, offload="disk")
    with pytest.raises(AdapterError, match="is read from disk"):
        fold_adapter(backbone.network, adapter)
