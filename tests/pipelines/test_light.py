"""The light of a second clip: what its cell does not hold, at the moment it is there."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dcgrid.pipelines.footage import Footage, turned
from dcgrid.pipelines.light import SecondLight, gives_light, lay_light, with_light
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


class Decoded:
    """The cells of a clip, as from an autoencoder that loses a part of them."""

    def __init__(self, frames_THWC: torch.Tensor) -> None:
        self.frames_THWC = frames_THWC

    def __getitem__(self, stretch: slice) -> torch.Tensor:
        return self.frames_THWC[stretch]

    def pieces(self) -> Iterator[torch.Tensor]:
        yield self.frames_THWC


def footage_of(path: Path, frames_THWC: torch.Tensor, fps: int, kept: float = 1.0) -> Footage:
    write_pieces(path, lambda: [frames_THWC], Fraction(fps), num_frames=len(frames_THWC))
    clip, plan = read_clip(path, RULES)
    footage = Footage(
        path=path, plan=plan, whole_THWC=clip.frames_THWC, stream=CellFrames(path, plan)
    )
    cells_THWC = footage.frames(plan_windows(61, 401, Join(head=5, blend=0), 4)[0])
    return replace(footage, decoded=Decoded((kept * cells_THWC).to(torch.uint8)))


def streaks(level: int = 0) -> torch.Tensor:
    """A white line of two pixels that goes four to the right in each frame, beside a grey field."""
    frames = torch.full((COUNT, FACTOR * CELL[0], FACTOR * CELL[1], 3), level, dtype=torch.uint8)
    for number in range(COUNT):
        frames[number, 20:60, 4 * number : 4 * number + 2] = 250
    frames[:, 90:, :] = max(level, 50)
    return frames


@pytest.mark.parametrize("kept", [1.0, 0.4])
def test_b_itself_takes_the_place_of_its_cell(tmp_path: Path, kept: float) -> None:
    """A second exposure of A and B's cell becomes one of A and B, whatever the cell has lost."""
    footage = footage_of(tmp_path / "b.mp4", streaks(), 24, kept)
    light = SecondLight(footage, WHOLE)
    assert light.factor == FACTOR
    size = (FACTOR * CELL[0], FACTOR * CELL[1])
    below = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 0.8
    for number in (0, 1, 7, 8, 29):
        place = number / 2  # twelve frames a second of the cell
        pair_TCHW = footage.decoded[int(place) : int(place) + 2].permute(0, 3, 1, 2) / 255
        cell_CHW = torch.lerp(pair_TCHW[0], pair_TCHW[-1], place % 1)
        held_CHW = F.interpolate(cell_CHW[None], size=size, mode="bilinear")[0]
        generated_CHW = 1 - (1 - below) * (1 - held_CHW)
        found_CHW = 1 - (1 - generated_CHW) * light.at(place)
        wanted_CHW = 1 - (1 - below) * (1 - streaks()[number].permute(2, 0, 1) / 255)
        error_CHW = (found_CHW - wanted_CHW).abs()
        assert error_CHW.quantile(0.98) < 0.04  # what may be a camera's noise is left
        assert error_CHW.mean() < 0.25 * (generated_CHW - wanted_CHW).abs().mean() + 0.01
        line = found_CHW[:, 30:50, 4 * number : 4 * number + 2]
        assert line.mean() > 0.9


def test_a_short_clip_goes_forwards_and_backwards_as_its_cell_does(tmp_path: Path) -> None:
    footage = footage_of(tmp_path / "b.mp4", streaks(), 24)
    count = footage.plan.num_frames
    for number in (0, 5, count, count + 3, 2 * count + 1):
        shown = turned(number, count)
        dark = SecondLight(footage, WHOLE).at(number)
        again = SecondLight(footage, WHOLE).at(shown)
        assert torch.equal(dark, again)


def test_a_frame_is_lit_and_darkened() -> None:
    frame = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8)
    dark_CHW = 1.5 * torch.rand(3, 20, 30)
    large_CHW = F.interpolate(dark_CHW[None], size=(40, 60), mode="bilinear")[0].double()
    wanted = 1 - (1 - frame.permute(2, 0, 1).double() / 255) * large_CHW
    found = lay_light(frame, dark_CHW).permute(2, 0, 1).double() / 255
    torch.testing.assert_close(found, wanted.clamp(0, 1), rtol=0, atol=0.51 / 255)
    assert torch.equal(lay_light(frame, torch.ones(3, 20, 30)), frame)


@pytest.mark.parametrize(("level", "light"), [(0, True), (120, False)])
def test_only_elements_on_dark_ground_give_light(tmp_path: Path, level: int, light: bool) -> None:
    footage = footage_of(tmp_path / "b.mp4", streaks(level), 24)
    assert gives_light(footage, WINDOWS[0]) is light


def test_it_is_laid_over_at_the_moment_of_the_frame(tmp_path: Path) -> None:
    footage = footage_of(tmp_path / "b.mp4", streaks(), 24)
    upsampler = with_light(plain((64, 96)), footage, WHOLE)
    cell_THWC = torch.full((9, *CELL, 3), 100, dtype=torch.uint8)
    enlarge = upsampler(cell_THWC, cell_THWC, 4)
    made_HWC = enlarge(2.5, torch.zeros(64, 96, 3, dtype=torch.uint8))().float()
    column = 4 * 13 // 2  # (4 + 2.5) / 12 s is frame 13; the result has half the size of B
    assert made_HWC[15:25, column].mean() > 115
    assert made_HWC[50:].sub(100).abs().max() == 0


def test_a_clip_no_larger_than_its_cell_has_nothing_to_give(tmp_path: Path) -> None:
    small = F.avg_pool2d(streaks().permute(0, 3, 1, 2).float(), FACTOR).permute(0, 2, 3, 1)
    footage = footage_of(tmp_path / "b.mp4", small.to(torch.uint8), 24)
    assert not gives_light(footage, WINDOWS[0])
