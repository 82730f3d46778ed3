"""A small bitmap font for labels on contact sheets: capitals, digits and common signs.

Each glyph is 5 wide and 7 high, written as 7 rows from the top; a row is one hexadecimal number
whose 5 low bits are the pixels, leftmost first.
"""

import torch

GLYPH_HEIGHT = 7
GLYPH_WIDTH = 5
ADVANCE = GLYPH_WIDTH + 1

_ROWS = {
    " ": "00 00 00 00 00 00 00",
    "A": "0E 11 11 1F 11 11 11",
    "B": "1E 11 11 1E 11 11 1E",
    "C": "0E 11 10 10 10 11 0E",
    "D": "1E 11 11 11 11 11 1E",
    "E": "1F 10 10 1E 10 10 1F",
    "F": "1F 10 10 1E 10 10 10",
    "G": "0E 11 10 17 11 11 0F",
    "H": "11 11 11 1F 11 11 11",
    "I": "0E 04 04 04 04 04 0E",
    "J": "07 02 02 02 02 12 0C",
    "K": "11 12 14 18 14 12 11",
    "L": "10 10 10 10 10 10 1F",
    "M": "11 1B 15 15 11 11 11",
    "N": "11 19 19 15 13 13 11",
    "O": "0E 11 11 11 11 11 0E",
    "P": "1E 11 11 1E 10 10 10",
    "Q": "0E 11 11 11 15 12 0D",
    "R": "1E 11 11 1E 14 12 11",
    "S": "0F 10 10 0E 01 01 1E",
    "T": "1F 04 04 04 04 04 04",
    "U": "11 11 11 11 11 11 0E",
    "V": "11 11 11 11 0A 0A 04",
    "W": "11 11 11 15 15 1B 11",
    "X": "11 0A 0A 04 0A 0A 11",
    "Y": "11 11 0A 04 04 04 04",
    "Z": "1F 01 02 04 08 10 1F",
    "0": "0E 11 13 15 19 11 0E",
    "1": "04 0C 04 04 04 04 0E",
    "2": "0E 11 01 06 08 10 1F",
    "3": "1E 01 01 0E 01 01 1E",
    "4": "02 06 0A 12 1F 02 02",
    "5": "1F 10 1E 01 01 11 0E",
    "6": "06 08 10 1E 11 11 0E",
    "7": "1F 01 02 02 04 04 04",
    "8": "0E 11 11 0E 11 11 0E",
    "9": "0E 11 11 0F 01 02 0C",
    ".": "00 00 00 00 00 0C 0C",
    ",": "00 00 00 00 0C 04 08",
    ":": "00 0C 0C 00 0C 0C 00",
    ";": "00 0C 0C 00 0C 04 08",
    "-": "00 00 00 1F 00 00 00",
    "_": "00 00 00 00 00 00 1F",
    "+": "00 04 04 1F 04 04 00",
    "=": "00 00 1F 00 1F 00 00",
    "/": "01 01 02 04 08 10 10",
    "\\": "10 10 08 04 02 01 01",
    "(": "02 04 08 08 08 04 02",
    ")": "08 04 02 02 02 04 08",
    "[": "0E 08 08 08 08 08 0E",
    "]": "0E 02 02 02 02 02 0E",
    "<": "02 04 08 10 08 04 02",
    ">": "08 04 02 01 02 04 08",
    "!": "04 04 04 04 04 00 04",
    "?": "0E 11 01 02 04 00 04",
    "'": "04 04 08 00 00 00 00",
    '"': "0A 0A 0A 00 00 00 00",
    "#": "0A 0A 1F 0A 1F 0A 0A",
    "%": "18 19 02 04 08 13 03",
    "&": "0C 12 14 08 15 12 0D",
    "*": "00 15 0E 1F 0E 15 00",
    "@": "0E 11 17 15 17 10 0E",
    "|": "04 04 04 04 04 04 04",
    "~": "00 00 08 15 02 00 00",
}
# Shown for a character without a glyph.
_UNKNOWN = "1F 11 11 11 11 11 1F"


def text_pixels(text: str) -> torch.Tensor:
    """Draw one line of text.

    Args:
        text: Small letters are drawn as capitals, unknown characters as a box.

    Returns:
        Booleans, True where ink is, shape (7, 6 * len(text)).
    """
    lines_HW = torch.zeros(GLYPH_HEIGHT, ADVANCE * len(text), dtype=torch.bool)
    for index, letter in enumerate(text.upper()[: len(text)]):
        for y, row in enumerate(_ROWS.get(letter, _UNKNOWN).split()):
            bits = int(row, 16)
            for x in range(GLYPH_WIDTH):
                ink = bool(bits >> (GLYPH_WIDTH - 1 - x) & 1)
                lines_HW[y, index * ADVANCE + x] = ink
    return lines_HW
