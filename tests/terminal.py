"""A terminal small enough to read: text, line ends, and the movements that a progress bar makes."""

import re

_PIECE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+")


class Screen:
    """What a terminal shows.

    Args:
        columns: Its width; what is longer goes on in the next row.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.bars: list[list[str]] = []
        """Each time that a line is about to be drawn anew: the lines that hold a bar."""
        self._row = self._column = 0
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take what a program writes."""
        text = self._rest + text
        cut = re.search(r"\x1b(\[[?0-9;]*)?$", text)
        self._rest = cut.group() if cut else ""
        for piece in _PIECE.findall(text.removesuffix(self._rest) if self._rest else text):
            self._take(piece)

    def _take(self, piece: str) -> None:
        if piece == "\r":
            self.bars.append([line for line in self.lines if "━" in line])
            self._column = 0
        elif piece == "\n":
            self._go(self._row + 1, 0)
        elif piece.startswith("\x1b"):
            self._move(piece)
        else:
            for character in piece:
                if self._column == self.columns:
                    self._go(self._row + 1, 0)
                line = self.lines[self._row].ljust(self._column)
                self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
                self._column += 1

    def _move(self, sequence: str) -> None:
        if sequence.endswith("A"):
            self._go(self._row - int(sequence[2:-1] or 1), self._column)
        elif sequence == "\x1b[2K":
            self.lines[self._row] = ""
        elif sequence[-1] not in "mhl":
            raise ValueError(f"a sequence that this terminal does not know: {sequence!r}")

    def _go(self, row: int, column: int) -> None:
        self._row, self._column = row, column
        self.lines += [""] * (row + 1 - len(self.lines))
