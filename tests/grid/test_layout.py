"""Layouts, cell sizes and token counts."""

import doctest
import subprocess
import sys

import pytest

from dcgrid.errors import LayoutError
from dcgrid.grid import layout as layout_module
from dcgrid.grid.layout import (
    Cell,
    GridLayout,
    LatentGeometry,
    cell_token_shape,
    check_cell_size,
)

PAPER = LatentGeometry(stride_T=8, stride_HW=16, patch=(1, 2, 2))
TWO_BY_TWO = GridLayout(rows=2, cols=2)


def test_doctest() -> None:
    result = doctest.testmod(layout_module)
    assert result.attempted > 0
    assert result.failed == 0


def test_paper_canvas_is_9216_tokens() -> None:
    assert cell_token_shape(121, 288, 512, PAPER).count == 2304
    assert cell_token_shape(121, 576, 1024, PAPER).count == 9216


def test_cells_are_row_major() -> None:
    wide = GridLayout.parse("1x3")
    assert wide.cells == tuple(Cell(index=i, row=0, col=i) for i in range(3))
    assert [(c.row, c.col) for c in TWO_BY_TWO.cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1x1", ["whole"]),
        ("2x2", ["top left", "top right", "bottom left", "bottom right"]),
        ("1x3", ["left", "middle", "right"]),
        ("3x1", ["top", "middle", "bottom"]),
        ("1x4", [f"row 1 column {i}" for i in range(1, 5)]),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    layout = GridLayout.parse(text)
    assert [layout.name(i) for i in range(layout.count)] == names
    assert [layout.index(n.upper().replace(" ", "_")) for n in names] == list(range(layout.count))
    assert GridLayout.parse(str(layout)) == layout


def test_names_are_unique_in_every_layout() -> None:
    for rows in range(1, 6):
        for cols in range(1, 6):
            layout = GridLayout(rows=rows, cols=cols)
            assert len({layout.name(i) for i in range(layout.count)}) == rows * cols


@pytest.mark.parametrize("text", ["", "2", "2x", "0x2", "-1x2", "2x2x2", "axb", "9999x1"])
def test_bad_layout_text(text: str) -> None:
    with pytest.raises(LayoutError):
        GridLayout.parse(text)


def test_bad_cell_names_the_others() -> None:
    with pytest.raises(LayoutError, match="no cell 'middle'") as caught:
        TWO_BY_TWO.index("middle")
    assert "top left" in caught.value.hint
    for index in (-1, 4):
        with pytest.raises(LayoutError):
            TWO_BY_TWO.name(index)


def test_size_error_names_nearest_sizes() -> None:
    with pytest.raises(LayoutError, match="512x300") as caught:
        check_cell_size(300, 512, PAPER)
    assert "512x288, 512x320" in caught.value.hint
    with pytest.raises(LayoutError) as caught:
        check_cell_size(0, 5, PAPER)
    assert "32x32" in caught.value.hint


def test_hinted_sizes_and_frames_fit() -> None:
    geometry = LatentGeometry(stride_T=4, stride_HW=8, patch=(2, 2, 4))
    for height in range(1, 70):
        try:
            cell_token_shape(5, height, 32, geometry)
        except LayoutError as error:
            for size in error.hint.removeprefix("The nearest sizes that fit: ")[:-1].split(", "):
                w, h = map(int, size.split("x"))
                assert abs(h - height) < 16
                assert cell_token_shape(5, h, w, geometry).count == h * w // (16 * 32)
    for frames in range(-2, 40):
        try:
            shape = cell_token_shape(frames, 16, 32, geometry)
            assert 8 * (shape.frames - 1) + 5 == frames
        except LayoutError as error:
            below, above = (int(word) for word in error.hint.split() if word.isdigit())
            assert cell_token_shape(below, 16, 32, geometry).frames >= 1
            assert cell_token_shape(above, 16, 32, geometry).frames >= 1
            assert above > frames
            assert below < frames or below == 5


def test_plans_need_no_torch() -> None:
    code = "import sys, dcgrid.grid.layout, dcgrid.grid.routing;sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
