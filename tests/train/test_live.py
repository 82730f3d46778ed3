"""Grids generated with the networks of a training run: the same as by the commands."""

from pathlib import Path

import pytest
import torch

from dcgrid.adapters.attach import attach_adapter, set_routed
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.fold import fold_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.grid.routing import Routing, route_matrix
from dcgrid.models.native.presets import MINI_SPEC
from dcgrid.models.registry import find_model
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.pipelines.job import ComposeJob, EditJob
from dcgrid.pipelines.resolve import resolve
from dcgrid.pipelines.sampling import fill_grid, grid_request
from dcgrid.runtime.device import choose_dtype
from dcgrid.train.stages.flow_matching import GRID
from dcgrid.train.validation import generate_job

SIZE = (5, 32, 48)
AUTO = choose_dtype("auto", torch.device("cpu"))
EDIT = EditJob(input=Path("a"), model="tiny", effects=("rain", "fog"), seed=3)
FUSE = ComposeJob(first=Path("a"), second=Path("b"), model="tiny", seed=3)


class Silent:
    def start(self, stage, total=None, *, in_bytes=False):
        pass

    update = note = warn = start


def clips(count):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(256, (*SIZE, 3), generator=generator, dtype=torch.uint8) for _ in range(count)
    ]


def spec_of(name, **knobs):
    settings = {"rank": 2, "alpha": 2, "targets": ("query", "mlp_out"), "mode": "consistent"}
    return AdapterSpec(name=name, stage="fill", base="tiny", **{**settings, **knobs})


def learnt(dit, spec):
    """Attach an adapter and give it numbers that are felt."""
    generator = torch.Generator().manual_seed(5)
    for parameter in attach_adapter(dit, spec):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def live(route_KA=None, prepare=lambda dit: None):
    model = find_model("tiny")
    parts = model.load().parts
    prepare(parts.dit)
    return NetworkBackbone(model.spec, parts, AUTO, route_KA)


@pytest.mark.parametrize(("job", "given"), [(EDIT, 1), (FUSE, 2)])
def test_cells_are_those_of_the_command_before_its_upsampler(job, given):
    backbone = find_model("tiny").load(dtype=AUTO)
    request = grid_request(resolve(job), MINI_SPEC, clips(given), seed=job.seed)
    wanted = fill_grid(backbone, request, Silent())
    cells = generate_job(live(), job, clips(given), SIZE)
    assert len(cells) == 4
    for cell, clip in enumerate(cells):
        expected = wanted[cell] if cell in wanted else clips(given)[cell]
        assert torch.equal(clip, expected), cell


def test_an_attached_adapter_generates_what_the_folded_one_does(tmp_path):
    """What a run sees on its way is what `edit` shows with the file that comes out."""
    spec = spec_of("fill")
    backbone = live(prepare=lambda dit: learnt(dit, spec))
    attached = generate_job(backbone, EDIT, clips(1), SIZE)
    save_adapter(backbone.network, spec, tmp_path / "fill.safetensors")
    folded = live(prepare=lambda dit: fold_adapter(dit, tmp_path / "fill.safetensors"))
    bare = generate_job(live(), EDIT, clips(1), SIZE)
    for one, two, without in list(
        zip(attached, generate_job(folded, EDIT, clips(1), SIZE), bare, strict=True)
    )[1:]:
        away = (one.float() - two.float()).abs().mean()
        assert away < 2
        assert (one.float() - without.float()).abs().mean() > 3 * away


@pytest.mark.parametrize("job", [EDIT, FUSE])
def test_without_a_clip_all_cells_are_generated(job):
    one = generate_job(live(), job, (), SIZE)
    assert [tuple(cell.shape) for cell in one] == [(*SIZE, 3)] * 4
    assert all(cell.float().std() > 0 for cell in one)


def test_routes_of_the_run_reach_the_transformer():
    """An adapter on the cells of A alone changes that cell; without a route it cannot run."""

    def prepare(dit):
        learnt(dit, spec_of("a", targets=("grid_attention.query",)))
        learnt(dit, spec_of("b", targets=("grid_attention.query",)))
        set_routed(dit, ["a", "b"])

    route_KA = route_matrix(GRID, Routing(mode="composition"))
    routed = generate_job(live(route_KA, prepare), FUSE, (), SIZE)
    nowhere = generate_job(live(torch.zeros_like(route_KA), prepare), FUSE, (), SIZE)
    bare = generate_job(live(), FUSE, (), SIZE)
    assert all(torch.equal(one, two) for one, two in zip(nowhere, bare, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(routed, bare, strict=True))
    with pytest.raises(ValueError, match="routed"):
        generate_job(live(None, prepare), FUSE, (), SIZE)
