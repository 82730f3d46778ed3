"""One grid over several processes: the same velocity, whatever does not come out even."""

import json

import pytest

from tests.torchrun import torchrun

SCRIPT = """
import json, sys
import diffusers, torch
from torch import distributed
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.base import CellText, Memory, TokenPlaces
from dcgrid.models.wan.context import Options
from dcgrid.models.wan.parallel import TokenSplit
from dcgrid.models.wan.transformer import predict_velocity
from dcgrid.runtime.processes import join_processes

def velocities(model, split, given_first):
    torch.manual_seed(1)
    shape = TokenShape(frames=2, rows=3, cols=3)  # 9 tokens a frame
    layout = GridLayout(rows=2, cols=2)
    places = TokenPlaces(
        coordinates_S3=token_coordinates(layout, shape, None),
        position_S=grid_positions(layout, shape),
    )
    cells, valid = torch.randn(2, 4, 4, 2, 6, 6), torch.ones(2, 4, 5, dtype=torch.bool)
    valid[:, 1, 2:] = False
    text = CellText(tokens_BKLE=torch.randn(2, 4, 5, 32), valid_BKL=valid)
    memory, found = Memory(), []
    for moment in (1.0, 0.6, 0.2):
        time = torch.full((2, 4, 2), moment)
        time[:, 0] = 0
        time[:, :, 0] = 0 if given_first else moment
        found.append(
            predict_velocity(
                model, cells, time, text, places, None, memory,
                given_first=given_first, options=Options(split=split),
            )
        )
    return torch.stack(found)

with join_processes("cpu") as (processes, _), torch.no_grad():
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=4, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=32,
        freq_dim=16, ffn_dim=40, num_layers=2, rope_max_seq_len=64,
    ).eval()
    group = distributed.group.WORLD
    split = TokenSplit(group=group, rank=processes.rank, count=processes.count)
    rows = {}
    for given_first in (False, True):
        whole, shared = (velocities(model, one, given_first) for one in (None, split))
        rows[str(given_first)] = [float((whole - shared).abs().max()), float(whole.abs().max())]
    for one in processes.gather(rows):
        if processes.is_first:
            sys.stdout.write(json.dumps(one) + "\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_split_grid_has_the_velocity_of_a_whole_one(tmp_path, processes):
    """9 tokens a frame over 2 or 4 processes; texts of two lengths; given cells kept, and not."""
    pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")
    script = tmp_path / "split.py"
    script.write_text(SCRIPT)
    run = torchrun(processes, script)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == processes
    for difference, size in (pair for line in lines for pair in line.values()):
        assert size > 0.5
        assert difference < 2e-6 * size
