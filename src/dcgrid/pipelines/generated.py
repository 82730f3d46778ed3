"""What has been generated of a grid, window by window, and clips put together from it.

A grid of one window is kept in memory; with a folder it goes to disk without loss, so that memory
is that of one window and a run that was killed goes on where it stopped.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch

from dcgrid.errors import InputVideoError
from dcgrid.pipelines.fill import FilledCell
from dcgrid.pipelines.windows import Window
from dcgrid.video.parts import read_part, write_part


class Generated:
    """The generated cells of all windows of a grid."""

    def __init__(
        self, windows: Sequence[Window], cells: Sequence[int], folder: Path | None
    ) -> None:
        self.windows = tuple(windows)
        self.cells = tuple(cells)
        self._folder = folder
        self._kept: dict[tuple[int, int], FilledCell] = {}

    def has(self, window: Window) -> bool:
        """Return True if the window is generated already."""
        if self._folder is None:
            return all((window.index, cell) in self._kept for cell in self.cells)
        return all(path.exists() for path in self._paths(window))

    def drop_damaged(self) -> int:
        """Remove parts on disk that cannot be read; return how many windows they were of."""
        dropped = 0
        for window in self.windows if self._folder is not None else ():
            paths = self._paths(window)
            damaged = [path for path in paths if path.exists() and not _is_whole(path)]
            for path in damaged:
                path.unlink()
            dropped += bool(damaged)
        return dropped

    def put(self, window: Window, filled: Sequence[FilledCell]) -> None:
        """Keep what was generated of a window.

        Raises:
            OutputError: The disk is full.
        """
        if self._folder is not None:
            self._folder.mkdir(exist_ok=True)
        for one in filled:
            if self._folder is None:
                self._kept[window.index, one.cell] = one
                continue
            write_part(self._part(window.index, one.cell), one.frames_THWC, overwrite=True)

    def heads(self, window: Window) -> Mapping[int, torch.Tensor]:
        """Return what each cell of a window goes on from, THWC; nothing for the first."""
        if not window.head:
            return {}
        before = self.windows[window.index - 1]
        start = window.first - before.first
        return {
            cell: self._frames(before, cell)[start : start + window.head] for cell in self.cells
        }

    def pieces(self, cell: int) -> Iterator[torch.Tensor]:
        """Yield all frames of a cell in order, those of a window at a time; see `piece`."""
        held_THWC: torch.Tensor | None = None
        for window in self.windows:
            frames_THWC = self._frames(window, cell)
            yield _joined(window, frames_THWC, held_THWC)
            held_THWC = frames_THWC[window.shown :]

    def piece(self, window: Window, cell: int) -> torch.Tensor:
        """Return the frames of a cell that are delivered with a window, THWC.

        Args:
            window: One of `windows`.
            cell: A generated cell.
        """
        held_THWC = None
        if window.blend:
            before = self.windows[window.index - 1]
            held_THWC = self._frames(before, cell)[before.shown :]
        return _joined(window, self._frames(window, cell), held_THWC)

    def _frames(self, window: Window, cell: int) -> torch.Tensor:
        if self._folder is None:
            return self._kept[window.index, cell].frames_THWC
        return read_part(self._part(window.index, cell))

    def _paths(self, window: Window) -> list[Path]:
        return [self._part(window.index, cell) for cell in self.cells]

    def _part(self, index: int, cell: int) -> Path:
        if self._folder is None:
            raise ValueError("a grid that is kept in memory has no parts")
        return self._folder / f"{index:06d}.{cell}.mkv"


class GeneratedClip:
    """One generated cell as a clip that may be longer than memory: any stretch of it on demand."""

    def __init__(self, generated: Generated, cell: int) -> None:
        self._generated, self._cell = generated, cell
        # Stretches are taken in order, so the piece that one ends in is where the next begins.
        self._piece = lru_cache(maxsize=1)(self._read)

    def __len__(self) -> int:
        """Return the number of frames."""
        last = self._generated.windows[-1]
        return last.first + last.count

    def __getitem__(self, stretch: slice, /) -> torch.Tensor:
        """Return frames THWC, uint8.

        Raises:
            InputVideoError: A part on disk is damaged.
            ValueError: The slice has a step, or holds no frame.
        """
        start, stop, step = stretch.indices(len(self))
        if step != 1 or start >= stop:
            raise ValueError(f"no frames from {start} to {stop} in steps of {step}")
        found = []
        for window in self._generated.windows:
            begin, end = window.first + window.head, window.first + window.shown
            if begin < stop and start < end:
                piece_THWC = self._piece(window.index)
                found.append(piece_THWC[max(start - begin, 0) : stop - begin])
        return found[0] if len(found) == 1 else torch.cat(found)

    def frames(self, window: Window) -> torch.Tensor:
        """Return the frames of a window of a grid that this clip is given to, THWC, uint8."""
        return self[window.first : window.first + window.count]

    def pieces(self) -> Iterator[torch.Tensor]:
        """Yield all frames in order, those of a window at a time."""
        return self._generated.pieces(self._cell)

    def _read(self, index: int) -> torch.Tensor:
        return self._generated.piece(self._generated.windows[index], self._cell)


def blend(before_THWC: torch.Tensor, after_THWC: torch.Tensor) -> torch.Tensor:
    """Mix frames of two windows, the later one more from frame to frame; uint8, rounded."""
    weights_T = torch.arange(1, len(after_THWC) + 1) / (len(after_THWC) + 1)
    mixed_THWC = torch.lerp(before_THWC.float(), after_THWC.float(), weights_T[:, None, None, None])
    return mixed_THWC.round().to(torch.uint8)


def _joined(
    window: Window, frames_THWC: torch.Tensor, held_THWC: torch.Tensor | None
) -> torch.Tensor:
    """Return what is delivered with a window: its fresh frames, the first of them blended."""
    if window.blend and held_THWC is not None:
        zone = slice(window.head, window.head + window.blend)
        frames_THWC = frames_THWC.clone()
        frames_THWC[zone] = blend(held_THWC, frames_THWC[zone])
    return frames_THWC[window.fresh]


def _is_whole(path: Path) -> bool:
    try:
        read_part(path)
    except InputVideoError:
        return False
    return True
