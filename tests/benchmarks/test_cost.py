"""Operations counted from configs against those that torch counts."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost import cost_of, forward_work
from dcgrid.grid.layout import GridLayout
from dcgrid.models.base import CellText
from dcgrid.models.registry import find_model
from dcgrid.models.wan.counts import WanSizes
from dcgrid.models.wan.known import TEXT_LENGTH
from dcgrid.pipelines.sampling import token_places


def test_operations_of_a_forward_are_those_that_torch_counts(wan_folder):
    backbone = find_model(str(wan_folder)).load()
    cells_BKCFYX = torch.randn(1, 4, 4, 2, 4, 6)
    places = token_places(GridLayout(rows=2, cols=2), (2, 4, 6), backbone.spec.patch, None)
    text = CellText(
        tokens_BKLE=torch.randn(1, 4, TEXT_LENGTH, 32),
        valid_BKL=torch.ones(1, 4, TEXT_LENGTH, dtype=torch.bool),
    )
    # One time for all cells: the embeddings of times are a handful of rows, counted apart.
    time_BKF = torch.full((1, 4, 2), 0.5)
    # The counter does not know the fused kernel of the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone.velocity(cells_BKCFYX, time_BKF, text, places)
    work = forward_work(WanSizes.of_checkout(wan_folder), tokens=4 * 2 * 2 * 3, cells=4)
    width, config = 48, backbone.network.config
    times = 2 * (config.freq_dim * width + width * width + width * 6 * width)
    # Nor oneDNN's product with GELU in it (models/wan/blocks.py).
    widened = 2 * 4 * 2 * 2 * 3 * width * config.ffn_dim * config.num_layers
    counted = counter.get_total_flops() + widened
    assert work.forward + times == counted


def test_the_large_models_cost_what_others_computed():
    """832x480x81 on one canvas has the same tokens; the figures were computed elsewhere."""
    small, large = cost_of("wan2.1-1.3b"), cost_of("wan2.1-14b")
    assert small.tokens == large.tokens == 32_760 * (2 * 15 * 2 * 26) // (30 * 52)
    assert abs(small.forward / 283 - 1) < 0.05
    assert abs(large.forward / 1678 - 1) < 0.05
