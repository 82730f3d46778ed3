"""Which cells a grid has, and how large a cell may be.

Letters: B batch, K cells, C channels, T H W pixel frames/height/width, F Y X latent
frames/rows/columns.

Cells are numbered row by row. A 2x2 grid:

    +---+---+
    | 0 | 1 |     0 top left      1 top right
    +---+---+
    | 2 | 3 |     2 bottom left   3 bottom right
    +---+---+
"""

import re
from dataclasses import dataclass

from dcgrid.errors import LayoutError
from dcgrid.io.progress import counted

_ROW_WORDS = {1: ("",), 2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
_COL_WORDS = {1: ("",), 2: ("left", "right"), 3: ("left", "middle", "right")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One place of a grid."""

    index: int
    """Place in row-major order, from 0."""
    row: int
    """Row, from 0 at the top."""
    col: int
    """Column, from 0 at the left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLayout:
    """A grid of rows x cols cells of one size.

    >>> layout = GridLayout.parse("2x2")
    >>> layout.count, layout.name(2)
    (4, 'bottom left')

    Paper: sec. 3.2
    """

    rows: int
    """Rows of cells; >= 1."""
    cols: int
    """Columns of cells; >= 1."""

    def __post_init__(self) -> None:
        """Refuse a grid without cells.

        Raises:
            LayoutError: If a side is below 1.
        """
        if self.rows < 1 or self.cols < 1:
            raise LayoutError(
                f"a grid of {self.rows}x{self.cols} cells has no cell",
                hint="Give rows x columns of at least 1x1, such as 2x2 or 1x3.",
            )

    @classmethod
    def parse(cls, text: str) -> "GridLayout":
        """Read a layout written as ROWSxCOLS.

        Raises:
            LayoutError: If the text has another form or names a grid without cells.
        """
        found = re.fullmatch(r"([0-9]{1,3})x([0-9]{1,3})", text.strip().lower())
        if found is None:
            raise LayoutError(
                f"layout {text!r} is not of the form ROWSxCOLS",
                hint="Write for example 2x2 or 1x3.",
            )
        return cls(rows=int(found[1]), cols=int(found[2]))

    @property
    def count(self) -> int:
        """Number of cells K."""
        return self.rows * self.cols

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells in row-major order."""
        return tuple(
            Cell(index=index, row=index // self.cols, col=index % self.cols)
            for index in range(self.count)
        )

    def name(self, index: int) -> str:
        """Return what a person calls a cell: "top left", "right", or "row 1 column 4".

        Raises:
            LayoutError: If the grid has no such cell.
        """
        self.require([index])
        row, col = divmod(index, self.cols)
        if self.count == 1:
            return "whole"
        if self.rows not in _ROW_WORDS or self.cols not in _COL_WORDS:
            return f"row {row + 1} column {col + 1}"
        words = (_ROW_WORDS[self.rows][row], _COL_WORDS[self.cols][col])
        return " ".join(dict.fromkeys(word for word in words if word))

    def index(self, name: str) -> int:
        """Return the cell that `name` names; case, "_" and "-" do not matter.

        Raises:
            LayoutError: If no cell has that name.
        """
        wanted = re.sub(r"[\s_-]+", " ", name).strip().lower()
        names = [self.name(index) for index in range(self.count)]
        if wanted not in names:
            raise LayoutError(
                f"a {self} grid has no cell {name!r}", hint=f"Its cells are: {', '.join(names)}."
            )
        return names.index(wanted)

    def require(self, indices: list[int]) -> None:
        """Check that every index names a cell of this grid.

        Raises:
            LayoutError: If one does not.
        """
        for index in indices:
            if not 0 <= index < self.count:
                raise LayoutError(
                    f"a {self} grid has no cell {index}",
                    hint=f"Cells are numbered 0 to {self.count - 1}, row by row.",
                )

    def __str__(self) -> str:
        """Return the layout as ROWSxCOLS, which `parse` reads."""
        return f"{self.rows}x{self.cols}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentGeometry:
    """How pixels become tokens; the facts of a ModelSpec that a layout needs."""

    stride_T: int
    """Pixel frames per latent frame; a clip has stride_T * n + 1 frames."""
    stride_HW: int
    """Pixels per latent row or column."""
    patch: tuple[int, int, int]
    """Latent frames, rows, columns per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShape:
    """Size of one cell in tokens."""

    frames: int
    """Tokens along time."""
    rows: int
    """Tokens from top to bottom."""
    cols: int
    """Tokens from left to right."""

    @property
    def count(self) -> int:
        """Tokens of one cell."""
        return self.frames * self.rows * self.cols


def check_cell_size(height: int, width: int, geometry: LatentGeometry) -> None:
    """Check that a cell divides into whole tokens.

    Args:
        height: Pixels.
        width: Pixels.
        geometry: The model's strides and patch.

    Raises:
        LayoutError: If not; the hint names the nearest sizes that fit.
    """
    units = (geometry.stride_HW * geometry.patch[1], geometry.stride_HW * geometry.patch[2])
    fitting = nearest_sizes(height, width, geometry)
    if (height, width) in fitting:
        return
    sizes = ", ".join(f"{w}x{h}" for h, w in fitting)
    raise LayoutError(
        f"a cell of {width}x{height} pixels does not divide into tokens of "
        f"{units[1]}x{units[0]} pixels",
        hint=f"The nearest sizes that fit: {sizes}.",
    )


def nearest_sizes(height: int, width: int, geometry: LatentGeometry) -> list[tuple[int, int]]:
    """Return the sizes around one that divide into whole tokens; itself alone if it does."""
    rows, cols = (geometry.stride_HW * side for side in geometry.patch[1:])
    return [(h, w) for h in nearest_multiples(height, rows) for w in nearest_multiples(width, cols)]


def nearest_multiples(length: int, unit: int) -> list[int]:
    """Return the multiples of `unit` just below and above `length`, one if it is a multiple."""
    below = max(length // unit, 1) * unit
    return [below] if length <= below else [below, below + unit]


def cell_token_shape(frames: int, height: int, width: int, geometry: LatentGeometry) -> TokenShape:
    """Return the size in tokens of a cell given in pixels.

    Args:
        frames: Pixel frames, stride_T * n + 1.
        height: Pixels.
        width: Pixels.
        geometry: The model's strides and patch.

    Raises:
        LayoutError: If the cell does not divide into whole tokens; names sizes that do.

    Paper: sec. 8 (121x576x1024 is 9216 tokens)
    """
    check_cell_size(height, width, geometry)
    latent_frames = (frames - 1) // geometry.stride_T + 1
    whole = frames >= 1 and (frames - 1) % geometry.stride_T == 0
    if not whole or latent_frames % geometry.patch[0]:
        unit = geometry.stride_T * geometry.patch[0]
        lowest = geometry.stride_T * (geometry.patch[0] - 1) + 1
        below = lowest + max(frames - lowest, 0) // unit * unit
        raise LayoutError(
            f"{counted(frames, 'frame')} cannot be divided into tokens (frames per latent "
            f"frame after the first: {geometry.stride_T}; latent frames per token: "
            f"{geometry.patch[0]})",
            hint=f"The nearest lengths that fit: {below} or {below + unit} frames.",
        )
    return TokenShape(
        frames=latent_frames // geometry.patch[0],
        rows=height // (geometry.stride_HW * geometry.patch[1]),
        cols=width // (geometry.stride_HW * geometry.patch[2]),
    )
