"""How far things move from a picture to the next one, by matching blocks.

Letters: B batch, C channels, H W height/width; Y X at half the size, N ways, D R down and right.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 7
"""Side of the blocks that are matched from frame to frame, at half the cell's size."""
REACH = (5, 3)
"""How far down and across (either way) things move from a frame of the cell to the next, at half
its size."""
STILL = 0.0003
"""What a match must gain for each pixel of its way."""


def find_motion(one_1CHW: Tensor, next_1CHW: Tensor) -> Tensor:
    """Return how far what a picture shows has moved in the next one: right and down, 12HW.

    Blocks are matched at half the size; between whole steps a parabola through the costs says where
    the best one is. Where nothing is to be seen it stands still.
    """
    size = one_1CHW.shape[-2:]
    one_11YX, next_11YX = (
        F.avg_pool2d(one.mean(1, keepdim=True), 2, ceil_mode=True, count_include_pad=False)
        for one in (one_1CHW, next_1CHW)
    )
    height, width = one_11YX.shape[-2:]
    down, right = REACH
    rows, columns = 2 * down + 1, 2 * right + 1
    padded = F.pad(next_11YX, (right, right, down, down))
    moved_1NYX = F.unfold(padded, (rows, columns)).unflatten(2, (height, width))
    cost_1NYX = F.avg_pool2d(
        (moved_1NYX - one_11YX).abs(), BLOCK, stride=1, padding=BLOCK // 2, count_include_pad=False
    )
    cost_DRYX = cost_1NYX[0].unflatten(0, (rows, columns))
    y_D1 = torch.arange(-down, down + 1.0, device=padded.device)[:, None]
    x_R = torch.arange(-right, right + 1.0, device=padded.device)
    cost_DRYX = cost_DRYX + STILL * torch.hypot(y_D1, x_R)[:, :, None, None]
    best_YX = cost_DRYX.flatten(0, 1).argmin(0)
    best_y, best_x = best_YX // columns, best_YX % columns
    y_grid, x_grid = torch.meshgrid(
        torch.arange(height, device=padded.device),
        torch.arange(width, device=padded.device),
        indexing="ij",
    )

    def cost(y_YX: Tensor, x_YX: Tensor) -> Tensor:
        y_YX, x_YX = y_YX.clamp(0, rows - 1), x_YX.clamp(0, columns - 1)
        found_YX: Tensor = cost_DRYX[y_YX, x_YX, y_grid, x_grid]
        return found_YX

    least = cost(best_y, best_x)
    way_y = best_y - down + _lowest(cost(best_y - 1, best_x), least, cost(best_y + 1, best_x))
    way_x = best_x - right + _lowest(cost(best_y, best_x - 1), least, cost(best_y, best_x + 1))
    still = (best_y == down) & (best_x == right)
    way_12YX = torch.stack((way_x, way_y))[None].masked_fill(still, 0.0)
    return F.interpolate(2 * way_12YX, size=size, mode="bilinear", align_corners=False)


def _lowest(before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
    """Return where a parabola through three costs is lowest, from -1/2 to 1/2."""
    bend = before - 2 * middle + after
    return (0.5 * (before - after) / bend.clamp_min(1e-6)).clamp(-0.5, 0.5)
