"""The fine light of a second clip: what a cell cannot hold, at the moment it is there."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dcgrid.pipelines.footage import Footage, turned
from dcgrid.pipelines.light import SecondLight, lay_light, with_light
from dcgrid.pipelines.upsampling import plain
from dcgrid.pipelines.windows import Join, plan_windows
from dcgrid.video.clip import ClipRules
from dcgrid.video.frames import CellFrames
from dcgrid.video.read import read_clip
from dcgrid.video.write import write_pieces

CELL, FACTOR, COUNT = (32, 48), 4, 36
RULES = ClipRules(
    fps=12, stride=4, max_frames=401, longest=401, cell_sizes=(CELL,), keeps_all=False
)
WHOLE = slice(0, CELL[0]), slice(0, CELL[1])
WINDOWS = plan_windows(17, 401, Join(head=5, blend=0), 4)


def footage_of(path: Path, frames_THWC: torch.Tensor, fps: int) -> Footage:
    write_pieces(path, lambda: [frames_THWC], Fraction(fps), num_frames=len(frames_THWC))
    clip, plan = read_clip(path, RULES)
    return Footage(path=path, plan=plan, whole_THWC=clip.frames_THWC, stream=CellFrames(path, plan))


def streaks(level: int = 0) -> torch.Tensor:
    """A white line of two pixels that goes four to the right in each frame, beside a grey field."""
    frames = torch.full((COUNT, FACTOR * CELL[0], FACTOR * CELL[1], 3), level, dtype=torch.uint8)
    for number in range(COUNT):
        frames[number, 20:60, 4 * number : 4 * number + 2] = 250
    frames[:, 90:, :] = max(level, 50)
    return frames


def test_what_is_finer_than_a_cell_is_there_at_its_own_rate(tmp_path: Path) -> None:
    light = SecondLight(footage_of(tmp_path / "b.mp4", streaks(), 24), WHOLE)
    assert light.factor == FACTOR
    for number in (0, 1, 7, 8, 29):
        found_CHW = light.at(number / 24)
        assert found_CHW.shape == (3, FACTOR * CELL[0], FACTOR * CELL[1])
        line = found_CHW[:, 30:50, 4 * number : 4 * number + 2]
        # Two of the four columns of a cell's pixel are lit, and it holds half of the light; between
        # the middles of pixels a little less.
        assert 0.4 < line.mean() < 0.6
        assert found_CHW[:, 30:50].mean(0).max(1).indices.sub(4 * number).abs().max() <= 1
        assert found_CHW[:, 100:].max() == 0  # smooth: the cell has all of it
        assert found_CHW[:, :80, 4 * number + 16 :].amax() < 0.02


def test_a_short_clip_goes_forwards_and_backwards_as_its_cell_does(tmp_path: Path) -> None:
    footage = footage_of(tmp_path / "b.mp4", streaks(), 24)
    light, count = SecondLight(footage, WHOLE), footage.plan.num_frames
    for number in (0, 5, count, count + 3, 2 * count + 1):
        shown = turned(number, count)  # of the cell, twelve a second
        assert torch.equal(light.at(number / 12), SecondLight(footage, WHOLE).at(shown / 12))


def test_it_is_laid_over_as_a_second_exposure() -> None:
    frame = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8)
    light_CHW = torch.rand(3, 20, 30)
    large_CHW = F.interpolate(light_CHW[None], size=(40, 60), mode="bilinear")[0].double()
    screened = 1 - (1 - frame.permute(2, 0, 1).double() / 255) * (1 - large_CHW)
    found = lay_light(frame, light_CHW).permute(2, 0, 1).double() / 255
    torch.testing.assert_close(found, screened, rtol=0, atol=0.51 / 255)
    assert torch.equal(lay_light(frame, torch.zeros(3, 20, 30)), frame)


@pytest.mark.parametrize(("level", "laid"), [(0, True), (120, False)])
def test_only_of_elements_on_dark_ground(tmp_path: Path, level: int, laid: bool) -> None:
    footage = footage_of(tmp_path / "b.mp4", streaks(level), 24)
    upsampler = with_light(plain((64, 96)), footage, WHOLE, WINDOWS[0])
    cell_THWC = torch.full((9, *CELL, 3), 100, dtype=torch.uint8)
    enlarge = upsampler(cell_THWC, cell_THWC, 4)
    made_HWC = enlarge(2.5, torch.zeros(64, 96, 3, dtype=torch.uint8))().float()
    column = 4 * 13 // 2  # (4 + 2.5) / 12 s is frame 13; the result has half the size of B
    assert bool(made_HWC[15:25, column].mean() > 115) is laid
    assert made_HWC[50:].sub(100).abs().max() == 0


def test_of_a_clip_no_larger_than_its_cell_nothing_is_laid(tmp_path: Path) -> None:
    small = F.avg_pool2d(streaks().permute(0, 3, 1, 2).float(), FACTOR).permute(0, 2, 3, 1)
    footage = footage_of(tmp_path / "b.mp4", small.to(torch.uint8), 24)
    usual = plain()
    assert with_light(usual, footage, WHOLE, WINDOWS[0]) is usual
