"""Contact sheets, PNG files and grid videos, read back by pillow where it is there."""

import string
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgrid.errors import OutputError
from dcgrid.video.sheet import contact_sheet, sheet_size, tile_grid, write_contact_sheet, write_png
from dcgrid.video.text import text_pixels, text_width


def test_png_is_exact(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture_HWC = torch.randint(0, 256, (37, 53, 3), dtype=torch.uint8)
    write_png(tmp_path / "a.png", picture_HWC)
    with image.open(tmp_path / "a.png") as opened:
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), picture_HWC.numpy())
    with pytest.raises(OutputError, match="exists"):
        write_png(tmp_path / "a.png", picture_HWC)
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "b.png", picture_HWC.float())


def test_every_picture_is_on_the_sheet_and_labels_are_drawn() -> None:
    frames = [torch.full((20, 130, 3), 40 + 30 * i, dtype=torch.uint8) for i in range(4)]
    clip_THWC = torch.stack(
        [torch.full((30, 140, 3), 200 + i, dtype=torch.uint8) for i in range(9)]
    )
    plain_HWC = contact_sheet([frames, [clip_THWC]])
    for value in (40, 70, 100, 130):
        assert (plain_HWC == value).all(-1).sum() == 20 * 130
    for value in (200, 203, 205, 208):  # 4 frames, evenly spaced, first and last among them
        assert (plain_HWC == value).all(-1).sum() == 30 * 140
    named_HWC = contact_sheet([frames, [clip_THWC]], ["rain", "night"], ["given"])
    ink = sum(int((text_pixels(text, 12) == 255).sum()) for text in ("rain", "night", "given"))
    assert ink > 4
    assert (named_HWC == 235).all(-1).sum() == ink
    assert named_HWC.shape[0] > plain_HWC.shape[0]
    assert named_HWC.shape[1] == plain_HWC.shape[1]


def test_sheet_file(tmp_path: Path) -> None:
    frame_HWC = torch.zeros(16, 16, 3, dtype=torch.uint8)
    write_contact_sheet(tmp_path / "s.png", [[frame_HWC]], ["a label much wider than the sheet"])
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([[], []])


def test_letters_differ_and_are_as_wide_as_told() -> None:
    signs = string.ascii_letters + string.digits + ".,:;-_+=/()[]<>!?#%&*@"
    drawn = {sign: text_pixels(sign, 16).numpy().tobytes() for sign in signs}
    assert len(set(drawn.values())) == len(signs)
    for text in ("rain", "a label", "W" * 7):
        assert text_pixels(text, 20).shape[1] == text_width(text, 20)
    assert text_pixels("a", 20).shape[0] == text_pixels("Wjg", 20).shape[0]


@pytest.mark.parametrize("size", [(720, 1280), (1920, 1080), (96, 160), (8, 8), (100, 4000)])
def test_pictures_of_results_are_at_least_320_wide(size: tuple[int, int]) -> None:
    height, width = sheet_size(size)
    assert 320 <= width <= 640
    assert abs(height / width - size[0] / size[1]) < 1 / width


def test_grid_puts_cells_row_by_row() -> None:
    cells = [torch.full((3, 4, 6, 3), i, dtype=torch.uint8) for i in range(6)]
    grid_THWC = tile_grid(cells, 2, 3)
    assert grid_THWC.shape == (3, 8, 18, 3)
    corners = grid_THWC[1, ::4, ::6, 0]
    assert corners.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="2x2 grid"):
        tile_grid(cells, 2, 2)
